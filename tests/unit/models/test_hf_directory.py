"""A saved model as others read it: config and tokenizer as JSON, by the rules of before transformers 5."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from sparc3_lightning.models.hf_directory import save_hf_directory
from sparc3_lightning.models.load import load_model, load_tokenizer
from sparc3_lightning.pruning.save import save_pruned_model
from tests.tiny import tiny_llama, tiny_mistral
from tests.tiny_files import recipe_of, tiny_tokenizer

LLAMA31 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
# As the files of LLaMA-3 have it: an odd order and spacing, and a class that all versions know.
TOKENIZER_CONFIG = """{
   "tokenizer_class": "PreTrainedTokenizerFast",
  "eos_token": "</s>", "bos_token": "<s>",
  "unk_token": "<unk>", "clean_up_tokenization_spaces": true
}"""


def base(directory: Path, **options: Any) -> Path:
    """A base model as one finds them: an older config, tokenizer files of its own."""
    tiny_llama(**options).save_pretrained(directory)
    fields = json.loads((directory / "config.json").read_text())
    rope = fields.pop("rope_parameters")
    fields |= {"torch_dtype": fields.pop("dtype"), "rope_theta": rope.pop("rope_theta")}
    fields["rope_scaling"] = None if rope == {"rope_type": "default"} else rope
    (directory / "config.json").write_text(json.dumps(fields))
    tiny_tokenizer().save_pretrained(directory)
    (directory / "tokenizer_config.json").write_text(TOKENIZER_CONFIG)
    (directory / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    return directory


def older_frequencies(fields: dict[str, Any]) -> list[float]:
    """What transformers 4 makes of a LLaMA config: 10,000 and no scaling unless the config says so."""
    theta, scaling = fields.get("rope_theta", 10000.0), fields.get("rope_scaling")
    width = fields["hidden_size"] // fields["num_attention_heads"]
    plain = [theta ** (-2 * i / width) for i in range(width // 2)]
    if scaling is None:
        return plain
    assert scaling["rope_type"] == "llama3"
    low, high, context = (
        scaling[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )

    def scaled(frequency: float) -> float:
        turns = context * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return (1 - kept) * frequency / scaling["factor"] + kept * frequency

    return [scaled(frequency) for frequency in plain]


@pytest.mark.parametrize("kind", ["pruned", "trained"])
@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 500000.0}, LLAMA31], ids=["3", "3.1"])
def test_a_reader_of_before_transformers_5_reads_the_same_model(
    kind: str, rope: dict[str, Any], tmp_path: Path
) -> None:
    home = base(tmp_path / "base", rope_parameters=rope)
    model, tokenizer = load_model(str(home)), load_tokenizer(str(home))
    if kind == "pruned":
        save_pruned_model(model, tokenizer, recipe_of(model), tmp_path / "saved")
    else:
        save_hf_directory(model, tokenizer, tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    before = json.loads((home / "config.json").read_text())
    assert {name: fields[name] for name in ("rope_theta", "rope_scaling", "torch_dtype")} == {
        name: before[name] for name in ("rope_theta", "rope_scaling", "torch_dtype")
    }
    assert fields["rope_parameters"] == rope
    assert fields["dtype"] == "float32"
    found = torch.tensor(older_frequencies(fields))
    assert torch.allclose(found, model.model.rotary_emb.inv_freq, rtol=1e-5)


def test_the_base_models_tokenizer_files_are_copied_as_they_are(tmp_path: Path) -> None:
    home = base(tmp_path / "base")
    save_hf_directory(load_model(str(home)), load_tokenizer(str(home)), tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (home / name).read_bytes()


def test_a_tokenizer_that_was_changed_is_saved_as_it_is_now(tmp_path: Path) -> None:
    home = base(tmp_path / "base")
    tokenizer = load_tokenizer(str(home))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    save_hf_directory(load_model(str(home)), tokenizer, tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert fields["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert fields["additional_special_tokens"] == ["<turn>"]
    # A list under this name ends transformers 4.
    assert "extra_special_tokens" not in fields
    again = load_tokenizer(str(tmp_path / "saved"))
    assert again("w0<turn>w1")["input_ids"] == tokenizer("w0<turn>w1")["input_ids"]
    assert again.all_special_tokens == tokenizer.all_special_tokens


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 500000.0}, LLAMA31], ids=["3", "3.1"])
def test_loading_again_gives_the_same_logits(rope: dict[str, Any], tmp_path: Path) -> None:
    home = base(tmp_path / "base", rope_parameters=rope)
    model = load_model(str(home))
    save_hf_directory(model, load_tokenizer(str(home)), tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))
    ids = torch.tensor([[3, 5, 7, 9, 11]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    ours, theirs = again.config.to_dict(), model.config.to_dict()
    assert {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)} == {"_name_or_path"}


def test_the_oldest_rope_scaling_keeps_its_key(tmp_path: Path) -> None:
    """transformers before 4.43 refuses a `rope_scaling` of other than two keys, `type` and `factor`."""
    rope = {"type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    save_hf_directory(tiny_mistral(rope_parameters=rope, sliding_window=None), tiny_tokenizer(), tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert fields["rope_scaling"] == {"type": "linear", "factor": 2.0}
    assert "sliding_window" in fields  # without it transformers 4 takes 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_weights_stay_shared_in_another_type(dtype: torch.dtype, tmp_path: Path) -> None:
    save_hf_directory(tiny_llama(tie_word_embeddings=True), tiny_tokenizer(), tmp_path / "saved", dtype=dtype)
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert load_model(str(tmp_path / "saved")).dtype == dtype
