"""A checkpoint, by its config and its files' headers: whether it is one whole model is known before it is read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sparc3_lightning.distributed.owners import own_part
from sparc3_lightning.files import read_json
from sparc3_lightning.models.families import FAMILIES, get_family
from sparc3_lightning.models.hub import fetch, hub_error, is_directory, one_line

# What the older convention keeps beside `rope_scaling`, not in it.
_BESIDE = ("rope_theta", "partial_rotary_factor")


def rope_types(fields: Mapping[str, Any]) -> list[str]:
    """Type of the rotary embedding, or of those of each kind of layer.

    Args:
        fields: Of a Hugging Face config.
    """
    return [str(part.get("rope_type") or part.get("type") or "default") for part in _parts(fields)]


def _parts(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    parameters = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    yield from nested or [parameters]


def constant_context(fields: Mapping[str, Any]) -> int | None:
    """Longest text whose tokens are embedded alike whatever stands beside it in a batch.

    It is the model's context, but for `longrope`: there the longest text of a batch decides on the frequencies of all,
    which are the same only up to `original_max_position_embeddings`. (`dynamic` scales beyond the context only.)

    Args:
        fields: Of a Hugging Face config.

    Returns:
        Tokens; None where the config does not say.
    """
    context: int | None = fields.get("max_position_embeddings")
    for part, kind in zip(_parts(fields), rope_types(fields), strict=True):
        original = fields.get("original_max_position_embeddings") or part.get("original_max_position_embeddings")
        if kind == "longrope" and original is not None:
            context = original if context is None else min(context, original)
    return context


def older_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` for readers that know no `rope_parameters`: they would take 10,000 and none.

    Args:
        fields: Of a config with `rope_parameters`.

    Returns:
        What to add; nothing where each kind of layer has parameters of its own, which the older convention cannot say.
    """
    parameters = fields.get("rope_parameters") or {}
    if not parameters or any(isinstance(value, Mapping) for value in parameters.values()):
        return {}
    scaling = {name: value for name, value in parameters.items() if name not in _BESIDE}
    if "type" in scaling:  # the oldest readers count the keys
        scaling.pop("rope_type", None)
    beside = {name: parameters[name] for name in _BESIDE if name in parameters}
    return {**beside, "rope_scaling": None if rope_types(fields) == ["default"] else scaling}


CONFIG, _GENERATION_CONFIG = "config.json", "generation_config.json"
_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Code that comes with a model never runs; unless told so, transformers asks at the terminal whether it may.
NO_CODE = {"trust_remote_code": False}


@dataclass(frozen=True)
class Stored:
    """One weight in a file.

    Attributes:
        path: The file.
        name: The weight's name there.
        shape: Its shape.
        dtype: Its type, as safetensors calls it.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, none of whose weights has been read.

    Attributes:
        name: Hub id or directory, as the user gave it.
        directory: Where the files are.
        config: The model's config.
        stored: By its name, each weight in the files.
    """

    name: str
    directory: Path
    config: PreTrainedConfig
    stored: Mapping[str, Stored]

    @classmethod
    def open(cls, name: str, revision: str | None = None, directory: Path | None = None) -> "Checkpoint":
        """Read config and headers.

        Args:
            name: Hub id or directory.
            revision: Revision on the hub.
            directory: Where its files are, where that is known.

        Raises:
            OSError: It cannot be reached, is not there or may not be read; says what to do.
            ValueError: No model that can be attributed: of no known family, quantised, of an unknown rotary embedding.
                Or files are damaged.
        """
        directory = directory or fetch_checkpoint(name, revision)
        config = read_config(name, directory)
        config._commit_hash = None if is_directory(name) else directory.name
        return cls(name, directory, config, _stored(name, directory))

    def empty_model(self, dtype: torch.dtype | None, attn_implementation: str | None) -> PreTrainedModel:
        """The model with parameters that have no memory, and buffers that have: no checkpoint holds rotary frequencies.

        Args:
            dtype: Type of the weights; None for the checkpoint's own.
            attn_implementation: Attention implementation; None for what the config says, or transformers' choice.

        Raises:
            OSError: Transformers makes no model of the config.
            ValueError: Weights are missing, or of other shapes than the config says.
        """
        check_attention(self.config, attn_implementation)
        options: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        with one_line("model", self.name), _parameters_on_meta():  # trap 23
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                self.config, dtype=dtype or self._own_dtype(), **options
            )
            if (self.directory / _GENERATION_CONFIG).is_file():
                model.generation_config = GenerationConfig.from_pretrained(self.directory)
        self._check(model)
        return model

    def _own_dtype(self) -> torch.dtype:
        """As transformers decides: what the config says, else what the first weight has."""
        if isinstance(self.config.dtype, torch.dtype):
            return self.config.dtype
        first = next(iter(self.stored.values()))
        with safe_open(first.path, framework="pt") as file:
            found: torch.dtype = file.get_slice(first.name)[:1].dtype
        return found

    def _check(self, model: PreTrainedModel) -> None:
        sources = {weight: self._candidates(model, weight) for weight, _ in model.named_parameters()}
        missing = sorted(weight for weight, found in sources.items() if not found)
        if missing:
            raise ValueError(
                f"the checkpoint {self.name!r} must hold all weights of its model, but lacks {len(missing)}, such as "
                f"{missing[0]}: random ones in their place would give scores that mean nothing. Set `model.model`."
            )
        for weight, parameter in model.named_parameters():
            for source in sources[weight]:
                if source.shape != tuple(parameter.shape):
                    raise ValueError(
                        f"weight {source.name} of {self.name!r} must have shape {list(parameter.shape)} by its config, "
                        f"got {list(source.shape)}: config and weights are of different models. Set `model.model`."
                    )

    def _candidates(self, model: PreTrainedModel, weight: str) -> list[Stored]:
        """Where a weight may be: under its name or a tied one's, or as its family or one without a head calls it."""
        names = [weight, *(target for target, source in model.all_tied_weights_keys.items() if source == weight)]
        names += [name.removeprefix(f"{model.base_model_prefix}.") for name in names]
        head = get_family(model.config.model_type).head_in_files
        names += [name.replace("lm_head.", f"{head}.") for name in names if name.startswith("lm_head.")]
        return [self.stored[name] for name in dict.fromkeys(names) if name in self.stored]

    def weights(self, model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
        """Each weight of the model as it is stored, in the order of its parameters.

        Args:
            model: One of this checkpoint.

        Raises:
            ValueError: It is no model of this checkpoint, or a file is damaged.
        """
        self._check(model)
        for weight, parameter in model.named_parameters():
            yield weight, self._read(self._candidates(model, weight)[0], slice(0, len(parameter)))

    @torch.no_grad()
    def fill(self, model: PreTrainedModel) -> None:
        """Read into the model's parameters; of sharded ones the rows that this rank keeps.

        Args:
            model: From `empty_model`, its parameters with memory by now.

        Raises:
            ValueError: A file is damaged; or weights that the config ties differ.
        """
        for weight, parameter in model.named_parameters():
            shard, rows = own_part(parameter)
            if not len(shard):
                continue  # fewer rows than ranks
            first, *others = self._candidates(model, weight)
            values = self._read(first, rows)
            shard.copy_(values)
            for other in others:
                if not torch.equal(values, self._read(other, rows)):
                    raise ValueError(
                        f"the checkpoint {self.name!r} ties {other.name} to {first.name} by its config, but holds "
                        "different ones. Set `tie_word_embeddings` to false in its config.json."
                    )

    def _read(self, source: Stored, rows: slice) -> Tensor:
        """Some rows of one weight, in the file's type.

        The file is opened for every weight: as long as it is open, what was read of it counts as this process's memory.
        """
        try:
            with safe_open(source.path, framework="pt") as file:
                values: Tensor = file.get_slice(source.name)[rows]
        except SafetensorError as error:
            raise _damaged(self.name, error) from error
        return values


def fetch_checkpoint(name: str, revision: str | None) -> Path:
    """The directory of a checkpoint's files; its weights are fetched only once its config has been found good.

    Raises:
        OSError: It cannot be reached, is not there or may not be read; says what to do.
        ValueError: See `read_config`.
    """
    directory = fetch("model", name, revision, [CONFIG, _GENERATION_CONFIG])
    read_config(name, directory)
    if is_directory(name):
        return directory
    # No other formats, no second copy under another name.
    return fetch("model", name, directory.name, [CONFIG, _GENERATION_CONFIG, _FILE, _INDEX, "model-*.safetensors"])


def read_config(name: str, directory: Path) -> PreTrainedConfig:
    """Read a model's config, and refuse what cannot be attributed.

    Args:
        name: What messages call the model.
        directory: Where its config.json is.

    Raises:
        OSError: No config.json, one that may not be read, or fields that transformers makes no config of.
        ValueError: Of no known family or not covered by it, quantised, or of an unknown rotary embedding.
    """
    with one_line("model", name):
        fields = read_json(directory / CONFIG, "model config")
        if not isinstance(fields, dict):
            raise ValueError(f"{directory / CONFIG} must hold the fields of a config, got a {type(fields).__name__}.")
    model_type = str(fields.get("model_type", ""))
    if model_type not in FAMILIES and fields.get("auto_map"):
        raise ValueError(
            f"the model {name!r} must be of a type among {sorted(FAMILIES)}, got {model_type!r}, whose custom code in "
            "its directory is never run. Set `model.model`."
        )
    get_family(model_type)
    if fields.get("quantization_config") is not None:
        raise ValueError(
            f"the model {name!r} must not be quantised, got a `quantization_config` in its config.json: quantised "
            "weights have no relevance. Set `model.model` to the plain one."
        )
    check_rope(fields, f"{CONFIG} of {name!r}", "model.model")
    with one_line("model", name):
        config: PreTrainedConfig = AutoConfig.from_pretrained(directory, **NO_CODE)
    get_family(model_type).check_config(config)
    config.name_or_path = name
    return config


def check_rope(fields: Mapping[str, Any], where: str, key: str) -> None:
    """Refuse a rotary embedding that transformers does not know.

    Args:
        fields: Of a config.
        where: What messages call it, and
        key: The config key to change.

    Raises:
        ValueError: One is unknown.
    """
    known = ["default", *ROPE_INIT_FUNCTIONS]
    for kind in rope_types(fields):
        if kind not in known:
            raise ValueError(f"the rotary embedding in {where} must be one of {known}, got {kind!r}. Set `{key}`.")


def check_attention(config: PreTrainedConfig, attn_implementation: str | None) -> None:
    """Refuse `sdpa` of a model that has eager attention alone, such as one with a soft cap in it.

    Args:
        config: The model's.
        attn_implementation: Attention implementation.

    Raises:
        ValueError: It is.
    """
    if attn_implementation == "sdpa" and not MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa:
        raise ValueError(
            f"`attn_implementation` must be 'eager' for a model of type {config.model_type!r}, got 'sdpa', which "
            "transformers does not have for it. Set `model.attn_implementation: eager`."
        )


def _stored(name: str, directory: Path) -> dict[str, Stored]:
    """What the files' headers list."""
    found: dict[str, Stored] = {}
    for path in _files(name, directory):
        with one_line("model", name), path.open("rb"):
            pass  # of a file that may not be read safetensors says that there is none
        try:
            with safe_open(path, framework="pt") as file:
                for weight in file.keys():  # noqa: SIM118 - no mapping
                    header = file.get_slice(weight)
                    found[weight] = Stored(path, weight, tuple(header.get_shape()), header.get_dtype())
        except SafetensorError as error:
            raise _damaged(name, error) from error
    return found


def _files(name: str, directory: Path) -> list[Path]:
    """The files that hold weights, by the index or the only one."""
    index = directory / _INDEX
    if not index.is_file():
        if not (directory / _FILE).is_file():
            raise hub_error("model", name, FileNotFoundError(f"no {_FILE} or {_INDEX} in it."))
        return [directory / _FILE]
    content = read_json(index, "weight index")
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{index} must hold a `weight_map` from weight to file, got none. Set `model.model`.")
    files = [directory / str(file) for file in dict.fromkeys(weights.values())]
    if missing := [file.name for file in files if not file.is_file()]:
        raise hub_error("model", name, FileNotFoundError(f"no {missing[0]} in it, though {_INDEX} names it."))
    return files


def _damaged(name: str, error: SafetensorError) -> ValueError:
    return ValueError(f"the weights of {name!r} cannot be read ({error}): a file is cut or damaged. Set `model.model`.")


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters made inside have no memory. Buffers have."""

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:  # a tied one comes twice, and stays one
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()
