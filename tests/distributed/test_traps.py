"""Traps of method.md, section 6, that several processes or Lightning's defaults can spring."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torchmetrics import Metric

from callbacks import RelevanceCallback
from sparc3_lightning.data.samples import LoadContext
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.scoring.plain import attribute
from tests.distributed.jobs import (
    Case,
    FixedPrompts,
    FixedSamples,
    FixedText,
    make_data,
    make_module,
    make_trainer,
    predict,
    reduced_scores,
)
from tests.launch import run_distributed
from tests.tiny import tiny_llama, tiny_samples
from tests.tiny_files import save_tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(directory)
    return directory


def scores_of(model: str, case: Case, **options: Any) -> dict[str, Tensor]:
    """Scores of the general samples."""
    with reduced_scores() as found:
        predict(make_trainer(case.strategy, RelevanceCallback(), **options), make_module(model, case))
    return found[0]


# 2: FSDP2 averages


def without(model: str, method: str) -> None:
    """Scores with one half of the remedy left out are wrong."""
    case = Case("sharded", "weight", "abs", "float32")
    right = scores_of(model, case)
    with mock.patch.object(FSDPModule, method):
        wrong = scores_of(model, case)
    for name, score in right.items():
        torch.testing.assert_close(wrong[name], score / 2)


def test_the_divide_factor_alone_cannot_run_on_gloo(model: Path) -> None:
    """In float32; float64 is summed without it."""
    with pytest.raises(Exception, match="PREMUL_SUM"):
        run_distributed(without, 2, str(model), "set_force_sum_reduction_for_comms")


def test_the_forced_sum_alone_still_divides_by_the_world_size(model: Path) -> None:
    run_distributed(without, 2, str(model), "set_gradient_divide_factor")


# 3: predict runs in inference mode


def test_a_plain_trainer_in_inference_mode_is_told_what_to_set(model: Path) -> None:
    module = make_module(str(model))
    with pytest.raises(ValueError, match=r"attribution needs gradients, which `trainer\.inference_mode: true` forbids"):
        predict(make_trainer("replicated", RelevanceCallback(), inference_mode=True), module)
    assert module.attribution is None


def test_predict_without_the_relevance_callback_is_told_what_to_add(model: Path) -> None:
    with pytest.raises(ValueError, match=r"Add `callbacks\.RelevanceCallback` to `trainer\.callbacks`"):
        predict(make_trainer(), make_module(str(model)))


# 4: ranks with different numbers of batches


class Steps(Callback):
    """Counts this rank's steps and real samples."""

    def __init__(self) -> None:
        self.steps, self.samples = 0, 0

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.steps += 1
        self.samples += int((batch["indices"] >= 0).sum())


def ninety_three() -> list[Tensor]:
    return tiny_samples([1 + number % 5 for number in range(93)], seed=3)


def predict_93(model: str, directory: str) -> None:
    for strategy in ("replicated", "sharded"):
        case, steps = Case(strategy, "weight"), Steps()
        with reduced_scores() as found:
            trainer = make_trainer(strategy, RelevanceCallback(), steps)
            predict(trainer, make_module(model, case), make_data(8, toxic=FixedSamples(ids=ninety_three())))
        counts = Path(directory) / f"{strategy}-{trainer.global_rank}.json"
        counts.write_text(json.dumps([steps.steps, steps.samples]))
        if trainer.is_global_zero:
            torch.save(found[0], Path(directory) / f"{strategy}.pt")


def test_93_samples_on_4_ranks(model: Path, tmp_path: Path) -> None:
    run_distributed(predict_93, 4, str(model), str(tmp_path))
    wanted = attribute(tiny_llama(dtype=torch.float64), ninety_three(), "weight", modules="all").scores
    for strategy in ("replicated", "sharded"):
        counts = [json.loads((tmp_path / f"{strategy}-{rank}.json").read_text()) for rank in range(4)]
        assert counts == [[3, 24], [3, 23], [3, 23], [3, 23]]
        found = torch.load(tmp_path / f"{strategy}.pt", weights_only=True)
        for name, score in wanted.items():
            torch.testing.assert_close(found[name].float(), score)


# 5 and 6: tensor parallelism by default; shards in half precision


def refused_shards(model: str) -> None:
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=ModelParallelStrategy(), logger=False, inference_mode=False,
        callbacks=[RelevanceCallback()], enable_progress_bar=False, use_distributed_sampler=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"`tensor_parallel_size` must be 1, got 2\. Set both.*data_parallel_size"):
        predict(trainer, make_module(model))
    case = Case("sharded", "weight", "abs", "bfloat16")
    with pytest.raises(ValueError, match=r"`trainer\.precision` must leave the shards in float32.*bfloat16"):
        predict(make_trainer("sharded", RelevanceCallback(), precision="bf16-true"), make_module(model, case))


def test_tensor_parallelism_and_true_bfloat16_shards_are_refused(model: Path) -> None:
    run_distributed(refused_shards, 2, str(model))


# 6 and 7: half precision

REPEATS = 300  # ones added in bfloat16 stop at 256


def same_sample(num: int) -> FixedSamples:
    return FixedSamples(ids=tiny_samples((5,)) * num)


def one_block(directory: Path) -> Path:
    tiny_llama(num_hidden_layers=1).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def assert_mean_of_equal_samples(model: str, case: Case, directory: str, num_samples: int, **options: Any) -> None:
    with reduced_scores() as found:
        trainer = make_trainer(case.strategy, RelevanceCallback(), **options)
        data = make_data(1, one=same_sample(trainer.world_size), many=same_sample(num_samples))
        module = predict(trainer, make_module(model, case, modules="neurons"), data)
    assert module.lm.dtype == (torch.float32 if case.strategy == "sharded" else torch.bfloat16)
    if trainer.is_global_zero:
        one, many = found
        assert {score.dtype for score in many.values()} == {torch.float32}
        for name, score in many.items():
            torch.testing.assert_close(score, one[name], rtol=1e-5, atol=0.0)
            assert score.count_nonzero() > 0.9 * score.numel()
        Path(directory, "done").touch()


def test_true_bfloat16_keeps_scores_in_float32(tmp_path: Path) -> None:
    """Lightning converts the module, its buffers and the default dtype of its steps."""
    for granularity in ("neuron", "weight"):
        case = Case("replicated", granularity, "abs", "float32")
        model = one_block(tmp_path / granularity)
        assert_mean_of_equal_samples(str(model), case, str(tmp_path), REPEATS, precision="bf16-true")


def test_bfloat16_shards_are_stored_and_summed_in_float32(tmp_path: Path) -> None:
    case = Case("sharded", "weight", "abs", "bfloat16")
    arguments = (str(one_block(tmp_path / "model")), case, str(tmp_path), 2 * REPEATS)
    run_distributed(assert_mean_of_equal_samples, 2, *arguments)
    assert (tmp_path / "done").exists()


def test_true_bfloat16_leaves_metrics_alone(model: Path) -> None:
    """The same evaluation of the same weights without a trainer."""
    module = make_module(str(model))
    make_trainer(precision="bf16-true").test(module, datamodule=make_data(), verbose=False)
    found = module.run.baseline
    alone = make_module(str(model)).evaluator
    context = LoadContext(tiny_tokenizer(), 32)
    wanted = alone.evaluate(
        tiny_llama(dtype=torch.bfloat16),
        tiny_tokenizer(),
        FixedText().load_rows(),
        FixedPrompts().load_prompts(context),
    )
    assert isinstance(found, Evaluation)
    assert found == wanted
    # Neither states of metrics nor scorers are in the module, where Lightning would convert them and FSDP2 shard them.
    assert not any(isinstance(part, Metric) for part in module.modules())
    assert all(name.startswith("model.") for name in module.state_dict())
    # Losses of this many tokens summed in bfloat16 would stop far below.
    assert found.perplexity["sliding"].num_scored > 200
    assert found.perplexity["sliding"].perplexity > 20
