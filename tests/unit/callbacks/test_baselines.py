"""BaselineCallback: what it refuses before any work, and what it leaves to the relevance callback."""

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import BaselineCallback, RelevanceCallback
from sparc3_lightning.data.samples import ReferenceSet
from tests.distributed.jobs import Case, FixedSamples, make_data, make_module, make_trainer, predict
from tests.tiny import tiny_llama
from tests.tiny_files import tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return str(directory)


def test_lrp_is_not_scored_twice_and_stands_beside_the_others(model: str, tmp_path: Path) -> None:
    callbacks = [RelevanceCallback(), BaselineCallback(["lrp", "random"], signs=["abs", "signed"], seed=5)]
    module = predict(make_trainer("replicated", *callbacks, default_root_dir=str(tmp_path)), make_module(model))
    found = module.run.scores
    assert list(found) == ["lrp", "lrp_signed", "random"]
    assert found["lrp"].sets == module.run.score_sets
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"lrp_signed", "random"}
    signed = found["lrp_signed"].sets["toxic"]
    assert signed.manifest["options"]["sign"] == "signed"
    assert signed.manifest["tokenizer_hash"] == found["lrp"].sets["toxic"].manifest["tokenizer_hash"]
    assert signed.manifest["data"] == found["lrp"].sets["toxic"].manifest["data"]
    assert "baselines" in module.run.seconds


def test_the_trainers_precision_is_that_of_baselines_too(model: str, tmp_path: Path) -> None:
    def scored(sign: str, precision: str) -> Any:
        callbacks = [RelevanceCallback(), BaselineCallback(["lrp"], signs=["abs", "signed"])]
        trainer = make_trainer(
            "replicated", *callbacks, precision=precision, default_root_dir=str(tmp_path / f"{sign}-{precision}")
        )
        return predict(trainer, make_module(model, Case(sign=sign, dtype="float32"))).run.scores

    first, second, exact = scored("abs", "bf16-mixed"), scored("signed", "bf16-mixed"), scored("abs", "32-true")
    for key in ("lrp", "lrp_signed"):
        for name, one in first[key].sets.items():
            ours, plain = second[key].sets[name].scores, exact[key].sets[name].scores
            assert all(torch.equal(score, ours[module]) for module, score in one.scores.items()), (key, name)
            assert any(not torch.equal(score, plain[module]) for module, score in one.scores.items())


def sets(*names: str) -> dict[str, ReferenceSet]:
    return {name: FixedSamples(seed) for seed, name in enumerate(names)}


@pytest.mark.parametrize(
    ("callbacks", "names", "said"),
    [
        (lambda: [BaselineCallback(["wanda"]), RelevanceCallback()], ("general",), "must list `callbacks.Relevance"),
        (lambda: [BaselineCallback(["wanda"])], ("general",), "must list `callbacks.RelevanceCallback` before"),
        (lambda: [RelevanceCallback(), BaselineCallback(["wanda"])], ("wanda",), r"as a method is, got \['wanda'\]"),
        (lambda: [RelevanceCallback(), BaselineCallback(["auroc"])], ("general",), "`behaviours` must name one set"),
        (
            lambda: [RelevanceCallback(), BaselineCallback(["value_vectors"])],
            ("general", "toxic"),
            r"'value_vectors' needs a behaviour's set whose .*Set `data\.behaviours\.toxic` to WordsThatMatter",
        ),
        (lambda: [BaselineCallback(["wander"])], ("general",), r"`methods` must be of .*got \['wander'\]"),
    ],
)
def test_refused_before_any_work(model: str, callbacks: Any, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        predict(make_trainer("replicated", *callbacks()), make_module(model), make_data(**sets(*names)))


def test_a_sharded_model_is_refused_before_any_work(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparc3_lightning.scoring.sequential.is_sharded", lambda model: True)
    monkeypatch.setattr(RelevanceCallback, "on_predict_batch_end", None)  # no batch is run
    callbacks = [RelevanceCallback(), BaselineCallback(["wanda_sequential"])]
    with pytest.raises(ValueError, match="'wanda_sequential' needs each layer's whole rows, got a sharded model"):
        predict(make_trainer("replicated", *callbacks), make_module(model))


def test_a_run_that_was_interrupted_while_it_saved_does_it_again(model: str, tmp_path: Path) -> None:
    half = tmp_path / "scores" / "wanda" / "general"
    half.mkdir(parents=True)
    (half / "rest").touch()
    callbacks = [RelevanceCallback(), BaselineCallback(["wanda"])]
    predict(make_trainer("replicated", *callbacks, default_root_dir=str(tmp_path)), make_module(model))
    assert sorted(path.name for path in (tmp_path / "scores" / "wanda").iterdir()) == ["general", "toxic"]
    assert not (half / "rest").exists()
