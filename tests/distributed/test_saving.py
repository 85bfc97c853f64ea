"""Weight scores written by all ranks: one directory as one process writes it, or none at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from callbacks import EvaluationCallback, PruningCallback, RelevanceCallback, ScoreWriter
from callbacks.score_writer import check_scores_are_whole
from sparc3_lightning.distributed.owners import share_out
from sparc3_lightning.distributed.ranks import gather_objects, rank_and_world_size
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.scoring.lazy import LazyScores, stored_scores
from sparc3_lightning.scoring.manifest import Manifest, Options
from sparc3_lightning.scoring.saving import save_together
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.distributed.jobs import Case, make_module, make_trainer, predict
from tests.launch import run_distributed
from tests.tiny import tiny_llama
from tests.tiny_files import tiny_tokenizer

CPU = torch.device("cpu")
STRATEGIES = ("replicated", "sharded")


# The whole chain


@contextmanager
def counted_reading() -> Iterator[list[int]]:
    """Bytes of the scores that this rank reads."""
    num_bytes = [0]

    def counted(directory: Path, *args: Any) -> LazyScores:
        scores = stored_scores(directory, *args)
        get = scores._get

        def read(name: str) -> Any:
            score = get(name)
            num_bytes[0] += score.nbytes  # type: ignore[union-attr]
            return score

        scores._get = read
        return scores

    with mock.patch("sparc3_lightning.scoring.score_set.stored_scores", counted):
        yield num_bytes


def weight_chain(model: str, directory: str, evaluated: str | None) -> None:
    for strategy in STRATEGIES:
        callbacks = [RelevanceCallback(), ScoreWriter(max_shard_size=3000), PruningCallback(num_neurons=5)]
        if strategy == evaluated:
            callbacks.append(EvaluationCallback(num_control_draws=0))
        trainer = make_trainer(strategy, *callbacks, default_root_dir=f"{directory}/{strategy}")
        with mock.patch("callbacks.evaluation.write_report"), counted_reading() as num_bytes:
            module = predict(trainer, make_module(model, Case(strategy, "weight")))
        if strategy == evaluated:
            total, sets = sum(gather_objects(num_bytes)), module.run.score_sets.values()
            assert total == sum(4 * score_set.num_scores for score_set in sets), "each module once, by some rank"
        assert isinstance(module.run.differential, ScoreSet)
        for score_set in (*module.run.score_sets.values(), module.run.differential):
            assert isinstance(score_set.scores, LazyScores), "no rank keeps them"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    tiny_llama(intermediate_size=21).save_pretrained(directory / "model")
    tiny_tokenizer().save_pretrained(directory / "model")
    for world, evaluated in ((1, "replicated"), (2, None), (4, "sharded")):
        run_distributed(weight_chain, world, str(directory / "model"), str(directory / str(world)), evaluated)
    return directory


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_directory_whatever_the_world_size(strategy: str, world: int, runs: Path) -> None:
    found_in, wanted_in = runs / str(world) / strategy, runs / "1" / "replicated"
    for name in ("general", "toxic", "differential"):
        found, wanted = (ScoreSet.load(directory / "scores" / name) for directory in (found_in, wanted_in))
        assert found.scores.keys() == wanted.scores.keys()
        assert len(found.scores) == 15
        for module, score in wanted.scores.items():
            assert found.scores[module].shape == score.shape
            assert (found.scores[module] - score).abs().max() <= 1e-6 * score.abs().max()
        assert not any(path.name.endswith(".tmp") for path in (found_in / "scores").iterdir())
        differs = {"files", "relevance_per_sample"}
        assert {k: v for k, v in found.manifest.items() if k not in differs} == {
            k: v for k, v in wanted.manifest.items() if k not in differs
        }
    total = ScoreSet.load(wanted_in / "scores" / "toxic").total
    manifest = ScoreSet.load(found_in / "scores" / "toxic").manifest
    assert manifest["relevance_per_sample"] == pytest.approx(total, rel=1e-6)
    assert sum(name.endswith(".safetensors") for name in manifest["files"]) >= max(world, 4)
    assert Recipe.load(found_in).neurons == Recipe.load(wanted_in).neurons


def test_the_same_validation(runs: Path) -> None:
    """Rank 0 reads whole sets module by module."""

    def validation(directory: Path) -> dict[str, Any]:
        table: dict[str, Any] = json.loads((directory / "experiment_results.json").read_text())["validation"]
        return table

    found, wanted = validation(runs / "4" / "sharded"), validation(runs / "1" / "replicated")
    assert found["passed"]
    assert found["sets"]["toxic"]["num_scores"] == wanted["sets"]["toxic"]["num_scores"] > 3000
    for name in ("general", "toxic"):
        relevance = wanted["sets"][name]["relevance_per_sample"]
        assert found["sets"][name]["relevance_per_sample"] == pytest.approx(relevance, rel=1e-6)
    strength = wanted["differential_strength"]["value"]
    assert found["differential_strength"]["value"] == pytest.approx(strength, rel=1e-5)


def test_what_reads_whole_sets_asks_for_the_writer(tmp_path: Path) -> None:
    module = make_module("nowhere", Case("replicated", "weight"))
    trainer = mock.Mock(world_size=2, callbacks=[RelevanceCallback()])
    with pytest.raises(ValueError, match=r"must list `callbacks\.ScoreWriter`"):
        check_scores_are_whole(trainer, module)
    trainer.callbacks.append(ScoreWriter())
    check_scores_are_whole(trainer, module)


# Who has what


def test_neighbours_stay_together_and_shares_are_alike() -> None:
    sizes = {str(number): 100 + number % 7 for number in range(60)}
    for world in (1, 2, 4, 7):
        owners = share_out(sizes, world)
        assert list(owners) == list(sizes)
        assert sorted(owners.values()) == list(owners.values())
        shares = [sum(sizes[name] for name, owner in owners.items() if owner == rank) for rank in range(world)]
        assert max(shares) <= sum(sizes.values()) / world + 107
        assert min(shares) > 0
    assert share_out({"a": 5}, 4)["a"] in range(4)
    assert set(share_out({"a": 1, "b": 10, "c": 1}, 2).values()) <= {0, 1}


# All or nothing

OPTIONS = Options(variant="attnlrp", target="last_token_argmax", sign="abs", granularity="weight", modules="all")


def part(value: float = 1.0) -> ScoreSet:
    rank, _ = rank_and_world_size()
    manifest = Manifest(kind="scores", options=OPTIONS)
    return ScoreSet({f"rank{rank}.{name}": torch.full((3, 4), value) for name in "ab"}, manifest)


def failures(directory: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank, _ = rank_and_world_size()
    scores = Path(directory) / "scores"

    def fails(error: type[Exception], message: str, value: float = 1.0) -> None:
        with pytest.raises(error, match=message):
            save_together(part(value), scores, CPU)
        torch.distributed.barrier()
        assert list(Path(directory).iterdir()) == [], "nothing is left"
        torch.distributed.barrier()

    # On the last rank only.
    fails(ValueError, r"on rank 1: scores of rank1\.a must be finite", float("nan") if rank else 1.0)
    full = mock.patch("sparc3_lightning.scoring.score_set.save_file", side_effect=OSError("disk full"))
    with full if rank else mock.MagicMock():
        fails(OSError, "on rank 1: disk full")
    # On rank 0 only.
    fails(ValueError, r"on rank 0: scores of rank0\.a must not be negative", 1.0 if rank else -1.0)
    with mock.patch("sparc3_lightning.scoring.saving.write_index_and_manifest", side_effect=OSError("disk full")):
        fails(OSError, "^disk full")
    # A directory that only rank 0 sees.
    unseen = mock.patch.object(Path, "exists", return_value=False)
    with unseen if rank else mock.MagicMock():
        fails(OSError, r"on rank 1: .* must lie on a file system that all ranks share")

    assert save_together(part(), scores, CPU, max_shard_size=50).shapes == {
        f"rank{rank}.{name}": (3, 4) for rank in range(2) for name in "ab"
    }
    before = {path.name: path.read_bytes() for path in scores.iterdir()}
    with pytest.raises(FileExistsError, match="not empty"):
        save_together(part(), scores, CPU)
    assert {path.name: path.read_bytes() for path in scores.iterdir()} == before
    assert len(before) == 6  # four files, index and manifest


def test_a_rank_that_fails_leaves_nothing_and_is_named_everywhere(tmp_path: Path) -> None:
    run_distributed(failures, 2, str(tmp_path))
    files = json.loads((tmp_path / "scores" / "scores.safetensors.index.json").read_text())["weight_map"]
    assert files["rank0.a"] == "scores-00001-of-00004.safetensors"
    assert files["rank1.b"] == "scores-00004-of-00004.safetensors"
    assert ScoreSet.load(tmp_path / "scores").total == 48
