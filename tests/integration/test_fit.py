"""`sparc3 fit`: from scratch, without a validation text, and tuning a pruned model."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.models.identity import base_model
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.pruning.recipe import Recipe
from tests.runs import QUIET, board, command, log_dir, read, written
from tests.tiny_files import same_weights

pytestmark = QUIET

FIT = "tests/configs/fit.yaml"
STEPS, WARM_UP, PEAK = 60, 10, 0.01
NEURONS = [(0, 3), (0, 60), (2, 17)]
NO_TEXT = ["--data.val_text=null", "--data.evaluation_text=null"]


def scalars(cli: SparC3CLI, tag: str) -> list[float]:
    return [event.value for event in board(log_dir(cli)).Scalars(tag)]


def parts(model: PreTrainedModel, layer: int, index: int) -> list[Tensor]:
    mlp = model.get_submodule(f"model.layers.{layer}.mlp")
    return [mlp.up_proj.weight[index], mlp.gate_proj.weight[index], mlp.down_proj.weight[:, index]]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> SparC3CLI:
    return command("fit", FIT, tmp_path_factory.mktemp("fit"))


@pytest.fixture(scope="module")
def trained(fitted: SparC3CLI) -> Path:
    return log_dir(fitted) / "model"


def test_loss_falls(fitted: SparC3CLI) -> None:
    loss = scalars(fitted, "train/loss")
    assert len(loss) == STEPS
    assert sum(loss[-5:]) < 0.7 * sum(loss[:5])
    assert all(parameter.isfinite().all() for parameter in fitted.model.lm.parameters())


def test_learning_rate_warms_up_and_follows_a_cosine(fitted: SparC3CLI) -> None:
    rates = scalars(fitted, "lr-AdamW/pg1")
    assert rates[: WARM_UP + 1] == pytest.approx([PEAK * step / WARM_UP for step in range(WARM_UP + 1)])
    progress = torch.arange(STEPS - WARM_UP) / (STEPS - WARM_UP)
    assert rates[WARM_UP:] == pytest.approx((PEAK * 0.5 * (1 + torch.cos(torch.pi * progress))).tolist(), abs=1e-6)


def test_no_decay_on_norms(fitted: SparC3CLI) -> None:
    groups = fitted.trainer.optimizers[0].param_groups
    assert {(len(group["params"]) > 0, group["weight_decay"]) for group in groups} == {(True, 0.1), (True, 0.0)}
    assert all(parameter.ndim == 1 for group in groups if group["weight_decay"] == 0 for parameter in group["params"])


def test_perplexity_is_measured_while_fitting(fitted: SparC3CLI) -> None:
    measured = scalars(fitted, "perplexity/sliding")
    assert len(measured) == 2
    assert measured[-1] < 150, "the vocabulary has 185 words"


def test_trained_model_is_a_hugging_face_directory(fitted: SparC3CLI, trained: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert same_weights(model, fitted.model.lm)
    assert model.dtype == torch.float32
    assert len(AutoTokenizer.from_pretrained(trained)) == len(fitted.model.tokenizer)
    assert read(log_dir(fitted) / "config.yaml")["seed_everything"] == 0
    assert any(name.startswith("checkpoints/") for name in written(log_dir(fitted)))


def test_fit_again_gives_the_same_weights(fitted: SparC3CLI, tmp_path: Path) -> None:
    again = command("fit", FIT, tmp_path, "--trainer.val_check_interval=60")
    assert same_weights(again.model.lm, fitted.model.lm), "validation in between changes nothing"


def test_fit_without_a_validation_text(fitted: SparC3CLI, tmp_path: Path) -> None:
    cli = command("fit", FIT, tmp_path, *NO_TEXT)
    assert same_weights(cli.model.lm, fitted.model.lm)
    assert (log_dir(cli) / "model" / "model.safetensors").is_file()


def push_every_weight(module: SparC3Module, optimizer: object) -> None:
    """A zeroed SwiGLU neuron has no gradient, and would stay at zero by itself."""
    for parameter in module.lm.parameters():
        assert parameter.grad is not None
        parameter.grad += 1


def test_recovery_tuning_holds_the_neurons_at_zero(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SparC3Module, "on_before_optimizer_step", push_every_weight)
    dense = AutoModelForCausalLM.from_pretrained(trained)
    recipe = Recipe(NEURONS, [-3.0, -2.0, -1.0], base_model(dense, str(trained))).save(tmp_path / "r.json")
    source = [f"--model.model={trained}", "--model.config=null", "--model.tokenizer=null", f"--model.recipe={recipe}"]
    cli = command("fit", FIT, tmp_path, *source, *NO_TEXT, "--trainer.max_steps=8", "--model.warmup_steps=0")
    tuned = AutoModelForCausalLM.from_pretrained(log_dir(cli) / "model")
    for layer, index in NEURONS:
        assert all(torch.count_nonzero(part) > 0 for part in parts(dense, layer, index))
        assert all(torch.count_nonzero(part) == 0 for part in parts(tuned, layer, index))
    for layer, index in ((0, 4), (1, 3)):
        for before, after in zip(parts(dense, layer, index), parts(tuned, layer, index), strict=True):
            assert torch.count_nonzero(after - before) > 0
    written_recipe = Recipe.load(log_dir(cli) / "model")
    assert written_recipe.neurons == NEURONS


def test_recipe_of_another_model_is_refused(trained: Path, tmp_path: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(trained)
    other.lm_head.weight.data[0, 0] += 1
    recipe = Recipe(NEURONS, [-3.0, -2.0, -1.0], base_model(other, str(trained))).save(tmp_path / "r.json")
    with pytest.raises(ValueError, match="weight hash"):
        command("fit", FIT, tmp_path, f"--model.model={trained}", "--model.config=null", f"--model.recipe={recipe}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.train_text=null"], r"`data\.train_text`"),
        (["--data.block_length=65"], r"context of 64 tokens, got 65.*`data\.block_length`"),
    ],
)
def test_what_cannot_be_fitted(options: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        command("fit", FIT, tmp_path, *options)
    assert not [name for name in written(tmp_path) if "model" in name or "checkpoints" in name]
