"""The two loaders, one process's and FSDP2's, side by side: the model that transformers loads, or the same refusal."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, PreTrainedModel

from sparc3_lightning.models.hub import hub_error
from sparc3_lightning.models.load import build_model, load_model, load_tokenizer
from sparc3_lightning.models.sharding import load_sharded_model, shard_model
from tests.tiny import TINY, tiny_llama
from tests.tiny_files import tiny_tokenizer

Loader = Callable[..., PreTrainedModel]
Weights = dict[str, torch.Tensor]
UP, EMBEDDING, HEAD = "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"


def sharded(name: str, **options: Any) -> PreTrainedModel:
    mesh = init_device_mesh("cpu", (1,))
    return load_sharded_model(name, lambda model: shard_model(model, mesh), torch.device("cpu"), **options)


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(params=[load_model, sharded], ids=["one process", "fsdp2"])
def load(request: pytest.FixtureRequest, group: None) -> Loader:
    loader: Loader = request.param
    return loader


def save(directory: Path, weights: Callable[[Weights], object] | None = None, **fields: Any) -> Path:
    """A tiny checkpoint with other weights, or with other fields in its config."""
    tiny_llama(tie_word_embeddings=fields.get("tie_word_embeddings", False)).save_pretrained(directory)
    if weights is not None:
        held = load_file(directory / "model.safetensors")
        weights(held)
        save_file(held, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | fields))
    return directory


def without_prefix(weights: Weights) -> None:
    for name in list(weights):
        weights[name.removeprefix("model.")] = weights.pop(name)


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "fields", "options"),
    [
        (None, {}, {"dtype": "bfloat16"}),
        (None, {"rope_parameters": LLAMA3}, {}),
        (None, {"tie_word_embeddings": True}, {"dtype": "float64"}),
        (without_prefix, {}, {}),
        (without_prefix, {"tie_word_embeddings": True}, {}),
        (lambda held: held.update({HEAD: held[EMBEDDING].clone()}), {"tie_word_embeddings": True}, {}),
    ],
    ids=["plain", "llama3", "tied", "no prefix", "no prefix, tied", "tied, twice"],
)
def test_what_transformers_loads(
    weights: Any, fields: dict[str, Any], options: dict[str, Any], load: Loader, tmp_path: Path
) -> None:
    directory = save(tmp_path / "model", weights, **fields)
    wanted = AutoModelForCausalLM.from_pretrained(directory, **options).eval()
    found = load(str(directory), attn_implementation="sdpa", **options)
    assert not found.training
    assert found.dtype == wanted.dtype
    assert found.config.to_dict() == wanted.config.to_dict()
    assert found.generation_config.to_dict() == wanted.generation_config.to_dict()
    tied = fields.get("tie_word_embeddings", False)
    assert (found.get_output_embeddings().weight is found.get_input_embeddings().weight) == tied
    named = dict(found.named_parameters())
    assert named.keys() == dict(wanted.named_parameters()).keys()
    ids = torch.tensor([[3, 5, 7, 9]])
    with torch.no_grad():
        assert torch.equal(found(ids).logits, wanted(ids).logits)


@pytest.mark.parametrize("named", ["eager", "flash_attention_2"])
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_the_runs_attention_implementation_counts(key: str, named: str, load: Loader, tmp_path: Path) -> None:
    """Not the one in config.json, which may not even be installed here."""
    model = load(str(save(tmp_path / "model", **{key: named})), attn_implementation="sdpa")
    assert model.config._attn_implementation == "sdpa"
    assert "_attn_implementation" not in model.config.to_dict()


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "missing": (lambda held: held.pop(UP), {}, ValueError, rf"lacks 1, such as {UP}"),
    "size": (
        lambda held: held.update({UP: held[UP][:-1].clone()}), {},
        ValueError, rf"weight {UP} of .* must have shape \[24, 16\] by its config, got \[23, 16\]",
    ),
    "heads of another model": (
        None, {"num_key_value_heads": 4},
        ValueError, r"layers\.0\.self_attn\.k_proj\.weight of .* must have shape \[16, 16\]",
    ),
    "tied, another head": (
        lambda held: held.update({HEAD: held[EMBEDDING] + 1}), {"tie_word_embeddings": True},
        ValueError, r"ties lm_head\.weight to model\.embed_tokens\.weight .*`tie_word_embeddings`",
    ),
    "quantised": (
        None, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        ValueError, r"must not be quantised, got a `quantization_config`.*`model\.model`",
    ),
    "unknown rope": (
        None, {"rope_parameters": {"rope_type": "magic", "rope_theta": 1e4}},
        ValueError, r"rotary embedding .* must be one of \['default', .*got 'magic'.*`model\.model`",
    ),
    "unknown older rope": (
        None, {"rope_scaling": {"type": "magic", "factor": 2.0}}, ValueError, r"rotary embedding .*got 'magic'",
    ),
    "rope without its factors": (
        None, {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
        OSError, r"cannot be loaded: KeyError: .*'low_freq_factor'.*Set `model\.model`\.$",
    ),
    "dtype": (None, {"dtype": "float33"}, OSError, r"no attribute 'float33'\. Set `model\.model`\.$"),
    "activation": (None, {"hidden_act": "magic"}, OSError, r"cannot be loaded: KeyError: 'magic'\. Set"),
    "sizes": (None, {"num_attention_heads": 3}, OSError, r"hidden size \(16\) is not a multiple"),
    "no number": (None, {"hidden_size": "wide"}, OSError, r"Field 'hidden_size' expected int, got str"),
    "padding": (None, {"pad_token_id": 99}, OSError, r"AssertionError: Padding_idx must be within"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_model_is_refused_in_one_line(case: str, load: Loader, tmp_path: Path) -> None:
    weights, fields, error, message = REFUSED[case]
    directory = save(tmp_path / "model", weights, **fields)
    with pytest.raises(error, match=message) as raised:
        load(str(directory))
    assert len(str(raised.value).splitlines()) == 1


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "config is a list": ("config.json", b"[1]", r"must hold the fields of a config, got a list"),
    "config is cut": ("config.json", b'{"model_type":', r"config\.json, line 1: no readable model config"),
    "config is no text": ("config.json", b"\xff\xfe", r"no readable model config: 'utf-8'"),
    "config without a type": ("config.json", b"{}", r"`model_type` must be one of .*'llama'.*, got ''"),
    "generation config is cut": ("generation_config.json", b"{", r"generation_config\.json' is not a valid JSON"),
    "index without a map": ("model.safetensors.index.json", b"{}", r"index\.json must hold a `weight_map`"),
    "index of files that are not there": (
        "model.safetensors.index.json", b'{"weight_map": {"a": "model-1-of-2.safetensors"}}',
        r"no model-1-of-2\.safetensors in it, though model\.safetensors\.index\.json names it",
    ),
    "weights are cut": ("model.safetensors", b"\x10\0\0\0", r"the weights of .* cut or damaged.*`model\.model`"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(case: str, load: Loader, tmp_path: Path) -> None:
    name, content, message = BROKEN[case]
    (save(tmp_path / "model") / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message):
        load(str(tmp_path / "model"))


@pytest.fixture
def locked_away() -> Iterator[Path]:
    """A place whose files others may read, while this process is one of the others: root may read anything."""
    home = Path(tempfile.mkdtemp(prefix="sparc3-test-"))
    home.chmod(0o755)
    before = os.geteuid()
    yield home
    os.seteuid(before)
    for path in home.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(home)


def lock(path: Path) -> None:
    for other in path.rglob("*") if path.is_dir() else [path]:
        other.chmod(0o644)
    path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)


@pytest.mark.parametrize("which", [".", "config.json", "model.safetensors"])
def test_what_may_not_be_read_is_there(which: str, load: Loader, locked_away: Path) -> None:
    lock(save(locked_away / "model") / which)
    with pytest.raises(PermissionError, match=r"model[\w./]* may not be read .*or set `model\.model`\.$"):
        load(str(locked_away / "model"))


@pytest.mark.parametrize("which", [".", "tokenizer.json"])
def test_a_tokenizer_that_may_not_be_read_is_there(which: str, locked_away: Path) -> None:
    tiny_tokenizer().save_pretrained(locked_away / "model")
    load_tokenizer(str(locked_away / "model"))  # what it imports may be read by its owner alone
    lock(locked_away / "model" / which)
    with pytest.raises(PermissionError, match=r"model[\w./]* may not be read .*or set `model\.tokenizer`\.$"):
        load_tokenizer(str(locked_away / "model"))


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "Magic"}}'])
def test_a_tokenizer_that_is_none_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(OSError, match=r"the tokenizer in .* cannot be loaded: .*Set `model\.tokenizer`\.$") as raised:
        load_tokenizer(str(tmp_path))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_what_cannot_be_fetched_names_the_key_of_its_own(what: str) -> None:
    said = str(hub_error(what, "organisation/name", ValueError("gated")))
    assert f"the {what} 'organisation/name' cannot be loaded: gated." in said
    assert f"set `model.{what}`" in said


def test_attention_that_the_model_does_not_have(load: Loader, tmp_path: Path) -> None:
    """A soft cap in attention leaves eager alone; whether from a checkpoint or from a config's fields."""
    tiny = TINY["gemma2"]()
    tiny.save_pretrained(tmp_path)
    said = r"`attn_implementation` must be 'eager' .*'gemma2', got 'sdpa'.*Set `model.attn_implementation: eager`"
    with pytest.raises(ValueError, match=said):
        load(str(tmp_path), attn_implementation="sdpa")
    with pytest.raises(ValueError, match=said):
        build_model({**tiny.config.to_diff_dict(), "model_type": "gemma2"}, 10, attn_implementation="sdpa")
    assert load(str(tmp_path), attn_implementation="eager").config.model_type == "gemma2"
