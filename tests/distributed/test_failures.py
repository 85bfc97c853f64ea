"""One rank in trouble ends all of them, soon and, where our code can see to it, with the same error."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from transformers import AutoModelForCausalLM

from callbacks import RelevanceCallback
from sparc3_lightning.distributed.ranks import check_same_on_every_rank, raise_together
from sparc3_lightning.metrics import LexicalScorer
from sparc3_lightning.module import SparC3Module
from tests.distributed.jobs import Case, FixedSamples, make_data, make_module, make_trainer, predict
from tests.launch import run_distributed
from tests.tiny import SHAPE, VOCAB, tiny_samples
from tests.tiny_files import save_tiny_model

STRATEGIES = ("replicated", "sharded")
BAD_TOKEN = 47
both = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path / "model")
    return tmp_path / "model"


def break_weights(directory: Path, name: str, change: Callable[[Tensor], object]) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        change(model.get_parameter(name))
    model.save_pretrained(directory)


def samples_with_bad_token(token: int = BAD_TOKEN) -> FixedSamples:
    """Seven samples; one of the shortest, which rank 1 gets in its second batch, holds the token."""
    samples = tiny_samples(vocab=VOCAB - 1)
    samples[6] = torch.tensor([3, token])
    return FixedSamples(ids=samples)


def fails_everywhere(
    model: str, strategy: str, error: type[Exception], message: str, samples: FixedSamples, marks: str
) -> None:
    module = make_module(model, Case(strategy, "weight"))
    trainer = make_trainer(strategy, RelevanceCallback())
    with pytest.raises(error, match=message):
        predict(trainer, module, make_data(2, toxic=samples))
    assert module.attribution is None, "the rules are off"
    assert module.run.score_sets == {}
    Path(marks, str(trainer.global_rank)).touch()


def assert_fails_on_both_ranks(model: Path, *args: Any) -> None:
    marks = model.parent / "marks"
    marks.mkdir()
    run_distributed(fails_everywhere, 2, str(model), *args, str(marks))
    assert sorted(mark.name for mark in marks.iterdir()) == ["0", "1"]


@both
def test_a_token_of_another_tokenizer(strategy: str, model: Path) -> None:
    message = rf"data\.reference_sets\.toxic\[6\]` must hold token ids between 0 and {VOCAB - 1}, got 3 to 99"
    assert_fails_on_both_ranks(model, strategy, ValueError, message, samples_with_bad_token(99))


@both
def test_weights_that_are_not_finite(strategy: str, model: Path) -> None:
    break_weights(model, "model.layers.1.mlp.up_proj.weight", lambda weight: weight[7].fill_(float("nan")))
    message = r"on rank 0: relevance is not finite: layer model\.layers\.1\.mlp\.up_proj, batch 0"
    assert_fails_on_both_ranks(model, strategy, FloatingPointError, message, samples_with_bad_token())


@both
def test_one_sample_that_breaks_on_its_rank_alone(strategy: str, model: Path) -> None:
    break_weights(model, "model.embed_tokens.weight", lambda weight: weight[BAD_TOKEN].fill_(float("inf")))
    sample = {"replicated": "0", "sharded": "unknown"}[strategy]
    layer = r"model\.layers\.0\.self_attn\.q_proj"
    message = rf"on rank 1: relevance is not finite: layer {layer}, batch 1, sample {sample}"
    assert_fails_on_both_ranks(model, strategy, FloatingPointError, message, samples_with_bad_token())


def refused_scores(model: str, strategy: str) -> None:
    """Each rank checks its part."""
    with (
        mock.patch("sparc3_lightning.distributed.reduce.check_scores", side_effect=ValueError("not these")),
        pytest.raises(ValueError, match="on rank 0: not these"),
    ):
        predict(make_trainer(strategy, RelevanceCallback()), make_module(model))


@both
def test_scores_that_a_rank_refuses(strategy: str, model: Path) -> None:
    run_distributed(refused_scores, 2, str(model), strategy)


class BadScorer(LexicalScorer):
    """Cannot score one of the completions, which come to different ranks."""

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if torch.distributed.get_rank() == 1 and texts:
            raise ValueError("this text has no score")
        return super().score(texts)


def failed_evaluation(model: str, strategy: str) -> None:
    module = make_module(model)
    module.evaluator.scorer = BadScorer(["w3"])
    with pytest.raises(ValueError, match="on rank 1: this text has no score"):
        make_trainer(strategy).test(module, datamodule=make_data(), verbose=False)


@both
def test_a_completion_that_one_rank_cannot_score(strategy: str, model: Path) -> None:
    run_distributed(failed_evaluation, 2, str(model), strategy)


# Ranks that would compute different things


class OtherSamples(FixedSamples):
    def __init__(self) -> None:
        super().__init__(seed=torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)

    def load(self, context: Any) -> Any:
        self.__init__()  # type: ignore[misc]
        return super().load(context)


def other_samples(model: str, strategy: str) -> None:
    with pytest.raises(ValueError, match=r"the reference samples \(their hashes\) must be the same on every rank"):
        predict(make_trainer(strategy, RelevanceCallback()), make_module(model), make_data(2, toxic=OtherSamples()))


def other_weights(model: str) -> None:
    trainer = make_trainer("sharded", RelevanceCallback())
    torch.manual_seed(trainer.global_rank)
    module = SparC3Module(config={"model_type": "llama", **SHAPE}, tokenizer=model)
    with pytest.raises(ValueError, match=r"weights \(their hash\) must be the same on every rank.*`seed_everything`"):
        predict(trainer, module)


@both
def test_ranks_with_other_samples(strategy: str, model: Path) -> None:
    run_distributed(other_samples, 2, str(model), strategy)


def test_ranks_that_would_shard_other_weights(model: Path) -> None:
    """Random ones, without a seed. (Lightning gives replicas rank 0's weights.)"""
    run_distributed(other_weights, 2, str(model))


# Errors that no rank can share: the others end with the process


class Boom(Callback):
    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_rank == trainer.world_size - 1:
            raise RuntimeError("boom")


def boom(model: str, strategy: str) -> None:
    predict(make_trainer(strategy, RelevanceCallback(), Boom()), make_module(model, Case(strategy, "weight")))


@both
def test_an_unforeseen_error_on_one_rank_ends_all(strategy: str, model: Path) -> None:
    # The name of the function is in what is raised where it hangs.
    with pytest.raises(Exception, match=r"RuntimeError: boom|[Cc]onnection closed|Connection reset"):
        run_distributed(boom, 2, str(model), strategy)


# The two functions by themselves


def share_errors() -> None:
    torch.distributed.init_process_group("gloo")
    rank, cpu = torch.distributed.get_rank(), torch.device("cpu")

    def odd() -> int:
        if rank % 2:
            raise FloatingPointError(f"mine {rank}")
        return rank

    assert raise_together(lambda: rank, FloatingPointError, cpu) == rank
    with pytest.raises(FloatingPointError, match=r"^on rank 1: mine 1$"):
        raise_together(odd, FloatingPointError, cpu)
    if rank % 2:
        with pytest.raises(FloatingPointError, match=r"^mine"):
            raise_together(odd, KeyError, cpu)  # not expected: not shared, the others are not asked
    check_same_on_every_rank({"a": 1}, "this")
    with pytest.raises(ValueError, match=r"^this must be the same on every rank, got 0 on rank 0 and 2 on rank 2"):
        check_same_on_every_rank(rank // 2 * 2, "this")


def test_errors_are_shared_by_four_ranks() -> None:
    run_distributed(share_errors, 4)


def test_one_process_shares_with_nobody() -> None:
    check_same_on_every_rank(1, "this")
    with pytest.raises(ValueError, match=r"^mine$"):
        raise_together(_raise, ValueError, torch.device("cpu"))


def _raise() -> int:
    raise ValueError("mine")
