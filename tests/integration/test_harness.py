"""lm-evaluation-harness on what this project saves: a pruned and a compressed directory, a local task, no network."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sparc3_lightning.models.identity import base_model
from sparc3_lightning.pruning.masks import Pattern
from sparc3_lightning.pruning.save import save_compressed_model, save_pruned_model
from sparc3_lightning.pruning.weight_scores import WeightScores
from sparc3_lightning.trials.compress import Compression
from tests.tiny import tiny_llama
from tests.tiny_files import recipe_of, tiny_tokenizer

lm_eval = pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed: pip install 'sparc3-lightning[eval]'"
)

ROWS = [{"prompt": f"w{n} w{n * n % 40} w3", "continuation": f"w{7 * n % 40} w{n + 5}"} for n in range(1, 8)]
# Two spaces would be another token: the harness puts nothing between the two.
TASK = """
task: sparc3_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{rows}"}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: " {{{{continuation}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as it is, without three neurons, and with half of its weights."""
    home = tmp_path_factory.mktemp("models")
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    model.save_pretrained(home / "base")
    tokenizer.save_pretrained(home / "base")
    save_pruned_model(model, tokenizer, recipe_of(model), home / "pruned")
    scores = WeightScores(model, {}, lambda: [], 0)
    half = Compression("magnitude", pattern="2:4")
    assert half.amount == Pattern(2, 4)
    masks, options = scores.masks(half.method, half.amount), half.options()
    save_compressed_model(model, masks, tokenizer, home / "compressed", base_model(model), 0.5, options)
    return {name: home / name for name in ("base", "pruned", "compressed")}


def by_harness(model: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], float]:
    """Log likelihood of every row, and the task's figure, by the command as it is typed."""
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (home / "task.yaml").write_text(TASK.format(rows=home / "rows.jsonl"))
    words = ["lm_eval", "--model", "hf", "--model_args", f"pretrained={model}", "--tasks", "sparc3_local",
             "--include_path", str(home), "--device", "cpu", "--batch_size", "3", "--output_path", str(home / "out"),
             "--log_samples"]  # fmt: skip
    monkeypatch.setenv("HF_DATASETS_CACHE", str(home / "cache"))
    monkeypatch.setattr(sys, "argv", words)
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
    (results,) = (home / "out").rglob("results_*.json")
    (samples,) = (home / "out").rglob("samples_*.jsonl")
    rows = sorted((json.loads(line) for line in samples.open()), key=lambda row: row["doc_id"])
    figure = json.loads(results.read_text())["results"]["sparc3_local"]["perplexity,none"]
    return [float(row["resps"][0][0][0]) for row in rows], figure


@torch.no_grad()
def by_hand(directory: Path) -> list[float]:
    """Sum of the log probabilities of each continuation's tokens."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    found = []
    for row in ROWS:
        prompt, continuation = (tokenizer(row[key])["input_ids"] for key in ("prompt", "continuation"))
        logits = model(torch.tensor([prompt + continuation])).logits[0].double().log_softmax(-1)
        found.append(sum(float(logits[len(prompt) - 1 + n, token]) for n, token in enumerate(continuation)))
    return found


@pytest.mark.parametrize("name", ["pruned", "compressed"])
def test_the_harness_finds_what_we_find(
    name: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, figure = by_harness(models[name], tmp_path, monkeypatch)
    assert found == pytest.approx(by_hand(models[name]), abs=1e-4)
    assert figure == pytest.approx(math.exp(-sum(found) / len(found)), rel=1e-4)


def test_what_was_removed_shows(models: dict[str, Path]) -> None:
    base, pruned, compressed = (by_hand(models[name]) for name in ("base", "pruned", "compressed"))
    for other in (pruned, compressed):
        assert min(abs(ours - theirs) for ours, theirs in zip(base, other, strict=True)) > 1e-3
