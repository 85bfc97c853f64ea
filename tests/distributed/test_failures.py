"""One rank in trouble ends all of them, soon and, where our code can see to it, with the same error."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store
from transformers import AutoModelForCausalLM

from callbacks import CompressionCallback, RelevanceCallback, SweepCallback
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.distributed.ranks import (
    check_same_on_every_rank,
    from_rank_zero,
    is_raised_by_all,
    raise_together,
)
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.metrics import LexicalScorer
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.trials.sweep import Grid
from tests.distributed.jobs import Case, FixedSamples, FixedText, make_data, make_module, make_trainer, predict
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


class OtherSamples(FixedSamples):
    """Other ones on each rank."""

    def load(self, context: Any) -> Any:
        return FixedSamples(seed=torch.distributed.get_rank()).load(context)


class BadScorer(LexicalScorer):
    """Cannot score one of the completions, which come to different ranks."""

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if torch.distributed.get_rank() == 1 and texts:
            raise ValueError("this text has no score")
        return super().score(texts)


def refusals(strategy: str, whole: str, not_a_number: str, infinite: str) -> None:
    """One after the other, in the same processes: what fails together leaves no rank behind."""
    sample = {"replicated": "0", "sharded": "unknown"}[strategy]
    cases: list[tuple[str, FixedSamples, type[Exception], str]] = [
        (  # A token of another tokenizer
            whole, samples_with_bad_token(99), ValueError,
            rf"data\.behaviours\.toxic\[6\]` \(6\) must hold token ids between 0 and {VOCAB - 1}, got 3 to 99",
        ),
        (
            whole, OtherSamples(), ValueError,
            r"the reference samples \(their hashes\) must be the same on every rank",
        ),
        (
            not_a_number, samples_with_bad_token(), FloatingPointError,
            r"on rank 0: relevance is not finite: layer model\.layers\.1\.mlp\.up_proj, batch 0",
        ),
        (  # One sample that breaks on its rank alone
            infinite, samples_with_bad_token(), FloatingPointError,
            rf"on rank 1: relevance is not finite: layer model\.layers\.0\.self_attn\.q_proj, batch 1, sample {sample}",
        ),
    ]  # fmt: skip
    for model, samples, error, message in cases:
        module = make_module(model, Case(strategy, "weight"))
        with pytest.raises(error, match=message):
            predict(make_trainer(strategy, RelevanceCallback()), module, make_data(2, toxic=samples))
        assert module.attribution is None, "the rules are off"
        assert module.run.score_sets == {}
    with (  # Each rank checks its part.
        mock.patch("sparc3_lightning.scoring.loop.check_scores", side_effect=ValueError("not these")),
        pytest.raises(ValueError, match="on rank 0: not these"),
    ):
        predict(make_trainer(strategy, RelevanceCallback()), make_module(whole))
    module = make_module(whole)
    module.evaluator.scorer = BadScorer(["w3"])
    with pytest.raises(ValueError, match="on rank 1: this text has no score"):
        make_trainer(strategy).test(module, datamodule=make_data(), verbose=False)


@both
def test_what_one_rank_refuses_all_refuse(strategy: str, tmp_path: Path) -> None:
    models = [tmp_path / name for name in ("whole", "not_a_number", "infinite")]
    for directory in models:
        save_tiny_model(directory)
    break_weights(models[1], "model.layers.1.mlp.up_proj.weight", lambda weight: weight[7].fill_(float("nan")))
    break_weights(models[2], "model.embed_tokens.weight", lambda weight: weight[BAD_TOKEN].fill_(float("inf")))
    run_distributed(refusals, 2, strategy, *map(str, models))


def other_weights(model: str) -> None:
    trainer = make_trainer("sharded", RelevanceCallback())
    torch.manual_seed(trainer.global_rank)
    module = SparC3Module(config={"model_type": "llama", **SHAPE}, tokenizer=model)
    with pytest.raises(ValueError, match=r"weights \(their hash\) must be the same on every rank.*`seed_everything`"):
        predict(trainer, module)


def test_ranks_that_would_shard_other_weights(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random ones, without a seed. (Lightning gives replicas rank 0's weights.)"""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # an earlier test's command line may have left one
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


# Cells of a sweep and compressed models: what all ranks raise costs one, what one rank raises ends the job


class EvaluationFails:
    """The evaluator's perplexity, which in its third call (after the baseline, of the second model) fails on a rank."""

    def __init__(self, error: Exception, ranks: Sequence[int], calls: Sequence[int] = (3,)) -> None:
        self.error, self.ranks, self.calls, self.num_calls = error, ranks, calls, 0
        self.original = Evaluator.perplexity

    def __call__(self, evaluator: Evaluator, model: Any, *args: Any, **options: Any) -> Any:
        self.num_calls += 1
        if self.num_calls in self.calls:
            raise_together(self._fail, ValueError, model.device)
        return self.original(evaluator, model, *args, **options)

    def _fail(self) -> None:
        if torch.distributed.get_rank() in self.ranks:
            raise self.error


def many_models(kind: str) -> Callback:
    """Two of them."""
    if kind == "sweep":
        return SweepCallback([Grid(["lrp"], [2, 3])])
    return CompressionCallback(["magnitude"], [0.3, 0.5])


def table_of(kind: str, home: Path) -> pd.DataFrame:
    return pd.read_parquet(home / {"sweep": "sweep", "compression": "compression"}[kind] / "table.parquet")


def evaluates(model: str, kind: str, home: str, fails: tuple[Exception, Sequence[int], Sequence[int]]) -> None:
    trainer = make_trainer("sharded", RelevanceCallback(), many_models(kind), default_root_dir=home)
    module = make_module(model)
    perplexity = EvaluationFails(*fails)
    data = SparC3DataModule(
        {"general": FixedSamples(0)}, {"toxic": FixedSamples(1)}, evaluation_text=FixedText(), batch_size=2
    )
    try:
        with mock.patch.object(Evaluator, "perplexity", lambda *args, **options: perplexity(*args, **options)):
            predict(trainer, module, data)
    except BaseException as error:
        Path(home, f"rank{trainer.global_rank}").write_text(f"{type(error).__name__}: {error}")
        raise


FIRST = {"sweep": "lrp, k 2, global", "compression": "magnitude, 30%"}
kinds = pytest.mark.parametrize("kind", ["sweep", "compression"])


@kinds
def test_a_model_that_all_ranks_refuse_costs_no_other(kind: str, model: Path, tmp_path: Path) -> None:
    run_distributed(evaluates, 2, str(model), kind, str(tmp_path), (ValueError("no figure"), [1], [3]))
    assert table_of(kind, tmp_path)["status"].tolist() == ["done", "done", "failed"]
    assert table_of(kind, tmp_path)["error"].tolist()[-1] == "ValueError: on rank 1: no figure"
    assert not (tmp_path / "rank0").exists()


@kinds
def test_a_rank_out_of_memory_ends_the_job(kind: str, model: Path, tmp_path: Path) -> None:
    """The other one waits for it in a collective, and must not take that for an error of the model."""
    with pytest.raises(Exception, match=r"OutOfMemoryError: full|[Cc]onnection closed|Connection reset"):
        run_distributed(evaluates, 2, str(model), kind, str(tmp_path), (torch.OutOfMemoryError("full"), [1], [3]))
    assert (tmp_path / "rank1").read_text() == "OutOfMemoryError: full"
    assert not (tmp_path / kind / "table.parquet").exists()


@kinds
def test_a_run_in_which_every_model_failed_fails(kind: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        Exception, match=rf"all 2 .* failed, the first \({FIRST[kind]}\) with ValueError: on rank 0: none"
    ):
        run_distributed(evaluates, 2, str(model), kind, str(tmp_path), (ValueError("none"), [0, 1], [2, 3]))
    said = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    # What was tried, and how it failed, is written all the same.
    assert table_of(kind, tmp_path)["status"].tolist() == ["done", "failed", "failed"]


# The functions by themselves


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
    for shared in (lambda: raise_together(odd, FloatingPointError, cpu), lambda: from_rank_zero(_raise)):
        with pytest.raises((FloatingPointError, ValueError)) as caught:
            shared()
        assert is_raised_by_all(caught.value)
    assert not is_raised_by_all(FloatingPointError("mine"))
    check_same_on_every_rank({"a": 1}, "this")
    with pytest.raises(ValueError, match=r"^this must be the same on every rank, got 0 on rank 0 and 2 on rank 2"):
        check_same_on_every_rank(rank // 2 * 2, "this")


def patience() -> None:
    """Rank 1 must not be in a collective, which has a limit, while rank 0 still works."""
    torch.distributed.init_process_group("gloo")
    store, rank = _get_default_store(), torch.distributed.get_rank()
    broadcast = torch.distributed.broadcast_object_list

    def early(*args: Any, **options: Any) -> None:
        store.set("in the collective", "")
        broadcast(*args, **options)

    def work() -> bool:
        store.wait(["asked"])
        try:
            store.wait(["in the collective"], timedelta(seconds=2))
        except torch.distributed.DistStoreError:
            return True
        return False

    with mock.patch.object(torch.distributed, "broadcast_object_list", early if rank else broadcast):
        if rank:
            store.set("asked", "")
        assert from_rank_zero(work)


def test_ranks_wait_for_rank_zero_without_a_limit() -> None:
    run_distributed(patience, 2)


def test_errors_are_shared_by_four_ranks() -> None:
    run_distributed(share_errors, 4)


@mock.patch("sparc3_lightning.distributed.ranks._get_default_store", mock.Mock)
@mock.patch("sparc3_lightning.distributed.ranks.world_size", mock.Mock(return_value=2))
def test_all_ranks_exit_with_rank_zero() -> None:
    """It was told to stop while the others waited: they must not wait for ever."""
    told: list[Any] = []

    def stop() -> None:
        raise SystemExit(75)

    def broadcast(outcome: list[Any], src: int) -> None:
        told[:] = outcome[:] = told or outcome

    sent = mock.patch.object(torch.distributed, "broadcast_object_list", broadcast)
    for function, is_first in ((stop, True), (_raise, False)):
        first = mock.patch("sparc3_lightning.distributed.ranks.is_rank_zero", mock.Mock(return_value=is_first))
        with sent, first, pytest.raises(SystemExit) as ended:
            from_rank_zero(function)
        assert ended.value.code == 75


def test_one_process_shares_with_nobody() -> None:
    check_same_on_every_rank(1, "this")
    with pytest.raises(ValueError, match=r"^mine$"):
        raise_together(_raise, ValueError, torch.device("cpu"))
    assert is_raised_by_all(ValueError("mine"))


def _raise() -> int:
    raise ValueError("mine")
