"""Load a checkpoint straight into FSDP2's shards: each rank reads its own rows from the safetensors files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from sparc3_lightning.distributed.ranks import check_same_on_every_rank, from_rank_zero, raise_together
from sparc3_lightning.files import read_json
from sparc3_lightning.identity import weight_hash
from sparc3_lightning.models import DtypeName, check_whole, damaged, hub_error, load_config, torch_dtype

_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# No more than this is fetched from a hub: no other formats, no second copy under another name.
_PATTERNS = ["config.json", "generation_config.json", _FILE, _INDEX, "model-*.safetensors"]


def load_sharded_model(
    name: str,
    shard: Callable[[PreTrainedModel], object],
    device: torch.device,
    revision: str | None = None,
    dtype: DtypeName = "auto",
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model so that no rank ever holds more of it than its shards.

    Parameters are made without memory, sharded, and filled one by one with the rows that this rank keeps. Every rank
    must call.

    Args:
        name: Hub id or Hugging Face directory, which every rank can read.
        shard: Shards the model, and may change the type of its parameters first; they have no memory yet.
        device: Where the shards live.
        revision: Revision on the hub.
        dtype: Type of the weights; "auto" is the checkpoint's own.
        attn_implementation: Attention implementation.

    Raises:
        OSError: It cannot be reached or is not there; says what to do.
        ValueError: Its `model_type` is of no known family; or weights are damaged, missing, of other shapes than the
            config says, or quantised. On every rank, whichever met it.
    """
    config = load_config(name, revision)
    directory = from_rank_zero(lambda: _local_directory(name, revision))

    def prepare() -> tuple[PreTrainedModel, dict[str, Path]]:
        files = _files_by_weight(name, directory if directory.is_dir() else _local_directory(name, revision))
        return _without_memory(name, config, _dtype(config, dtype, files), attn_implementation, files), files

    model, files = raise_together(prepare, (ValueError, OSError), device)
    shard(model)
    model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))
    raise_together(lambda: _fill(name, model, files), (ValueError, OSError), device)
    return model.eval()


def shard_built_model(model: PreTrainedModel, shard: Callable[[PreTrainedModel], object]) -> PreTrainedModel:
    """Shard a model with random weights, which every rank has made for itself. Every rank must call.

    Raises:
        ValueError: The ranks' weights differ: their shards would make a model that nobody has.
    """
    check_same_on_every_rank(weight_hash(model), "the model's weights (their hash)")
    shard(model)
    return model


def _local_directory(name: str, revision: str | None) -> Path:
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except (OSError, ValueError) as error:
        raise hub_error("model", name, error) from error


def _files_by_weight(name: str, directory: Path) -> dict[str, Path]:
    """Which file holds which weight, by the index or, of a single file, by its header."""
    if (directory / _INDEX).is_file():
        weights: Mapping[str, str] = read_json(directory / _INDEX, "weight index")["weight_map"]
        return {weight: directory / file for weight, file in weights.items()}
    if not (directory / _FILE).is_file():
        raise hub_error("model", name, FileNotFoundError(f"no {_FILE} or {_INDEX} in it."))
    try:
        with safe_open(directory / _FILE, framework="pt") as file:
            return dict.fromkeys(file.keys(), directory / _FILE)
    except SafetensorError as error:
        raise damaged(name, error) from error


def _dtype(config: PreTrainedConfig, dtype: DtypeName, files: Mapping[str, Path]) -> torch.dtype:
    """As transformers decides: what is asked for, else what the config says, else what the first weight has."""
    wanted = torch_dtype(dtype)
    if isinstance(wanted, torch.dtype):
        return wanted
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    weight, path = next(iter(files.items()))
    with safe_open(path, framework="pt") as file:
        found: torch.dtype = file.get_tensor(weight).dtype
    return found


def _without_memory(
    name: str,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    attn_implementation: str | None,
    files: Mapping[str, Path],
) -> PreTrainedModel:
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"the model {name!r} must not be quantised to be sharded. Set `model.model` to the plain one.")
    with _parameters_on_meta():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attn_implementation
        )
    with suppress(OSError):  # most checkpoints have one; transformers made another from the model's config
        model.generation_config = GenerationConfig.from_pretrained(next(iter(files.values())).parent)
    check_whole(name, sorted(name for name, _ in model.named_parameters() if _source(model, name, files) is None))
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters made inside have no memory. Buffers have: no checkpoint holds the rotary frequencies (trap 23)."""

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:  # a tied one comes twice, and stays one
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


def _tied_to(model: PreTrainedModel, weight: str) -> list[str]:
    return [target for target, source in model.all_tied_weights_keys.items() if source == weight]


def _source(model: PreTrainedModel, weight: str, files: Mapping[str, Path]) -> str | None:
    """The name under which the checkpoint holds a weight: its own, or that of one tied to it."""
    return next((name for name in (weight, *_tied_to(model, weight)) if name in files), None)


@torch.no_grad()
def _fill(name: str, model: PreTrainedModel, files: Mapping[str, Path]) -> None:
    for weight, parameter in model.named_parameters():
        source = _source(model, weight, files)
        assert source is not None, "prepare has checked that it is whole"
        shard, rows = _shard_and_rows(parameter)
        if not len(shard):
            continue  # fewer rows than ranks
        values = _read(name, files[source], source, rows, parameter.shape)
        shard.copy_(values)
        for other in _tied_to(model, weight):
            if other in files and other != source:
                _check_equal(name, weight, values, other, _read(name, files[other], other, rows, parameter.shape))


def _shard_and_rows(parameter: Tensor) -> tuple[Tensor, slice]:
    """What this rank holds of a parameter, and which rows of the whole that is."""
    if not isinstance(parameter, DTensor):
        return parameter, slice(0, len(parameter))
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return parameter.to_local(), slice(offset[0], offset[0] + shape[0])


def _read(name: str, path: Path, weight: str, rows: slice, shape: torch.Size) -> Tensor:
    """Some rows of one weight, in the file's type.

    The file is opened for every weight: as long as it is open, what was read of it counts as this process's memory.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = file.get_slice(weight)
            if list(shape) != found.get_shape():
                raise ValueError(
                    f"weight {weight} of {name!r} must have shape {list(shape)} by its config, got "
                    f"{found.get_shape()}: config and weights are of different models. Set `model.model`."
                )
            values: Tensor = found[rows]
    except SafetensorError as error:
        raise damaged(name, error) from error
    return values


def _check_equal(name: str, weight: str, values: Tensor, other: str, other_values: Tensor) -> None:
    if not torch.equal(values, other_values):
        raise ValueError(
            f"the checkpoint {name!r} ties {other} to {weight} by its config, but holds different ones. Set "
            "`tie_word_embeddings` to false in its config.json."
        )
