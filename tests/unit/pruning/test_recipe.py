"""The recipe's file."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning import Recipe
from sparc3_lightning.files import json_sha256

RECIPE = Recipe(
    neurons=[(3, 7), (0, 2), (3, 1)],
    scores=[-0.1, -1 / 30, -1e-12],
    base_model={"id": "tiny", "revision": None, "weight_hash": "a" * 64},
    options={"num_neurons": 3, "scope": "global"},
)


def test_round_trip(tmp_path: Path) -> None:
    path = RECIPE.save(tmp_path / "runs" / "recipe.json")
    assert Recipe.load(path) == RECIPE
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["recipe.json"]


def test_directory(tmp_path: Path) -> None:
    assert RECIPE.save(tmp_path).name == "pruned_neurons.json"
    assert Recipe.load(tmp_path) == RECIPE


def test_without_scores(tmp_path: Path) -> None:
    recipe = Recipe([(0, 1)])
    assert Recipe.load(recipe.save(tmp_path / "r.json")) == recipe


def test_file_is_readable_by_others(tmp_path: Path) -> None:
    content = json.loads(RECIPE.save(tmp_path / "r.json").read_text())
    assert content["format_version"] == 2
    assert content["neurons"][0] == {"layer": 3, "index": 7, "score": -0.1, "factor": 0.0}
    assert content["base_model"] == RECIPE.base_model


def test_per_layer() -> None:
    assert RECIPE.per_layer() == {0: [2], 3: [1, 7]}


def test_saving_again_replaces_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = RECIPE.save(tmp_path / "r.json")
    with pytest.raises(ValueError, match="JSON"):
        Recipe([(0, 1)], scores=[float("nan")]).save(path)
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Recipe([(0, 1)]).save(path)
    monkeypatch.undo()
    assert Recipe.load(path) == RECIPE
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_factors_come_back(tmp_path: Path) -> None:
    recipe = replace(RECIPE, factors=[0.0, 0.25, 1.0])
    content = json.loads(recipe.save(tmp_path / "r.json").read_text())
    assert [entry["factor"] for entry in content["neurons"]] == [0.0, 0.25, 1.0]
    found = Recipe.load(tmp_path / "r.json")
    assert found == recipe
    assert (found.num_dampened, found.done) == (2, "dampened or removed (2 and 1)")
    assert (RECIPE.num_dampened, RECIPE.done) == (0, "removed")


def test_a_file_of_before_removes(tmp_path: Path) -> None:
    content = RECIPE.to_json()
    del content["sha256"]
    for entry in content["neurons"]:
        del entry["factor"]
    old = {**content, "format_version": 1}
    (tmp_path / "r.json").write_text(json.dumps({**old, "sha256": json_sha256(old)}))
    assert Recipe.load(tmp_path / "r.json") == RECIPE


@pytest.mark.parametrize(
    ("factors", "said"),
    [([0.5], "one for each of 3 neurons, got 1"), ([0.5, -0.1, 1.5], r"between 0 and 1, got \[-0.1, 1.5\]")],
)
def test_what_is_no_factor_is_refused(factors: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(RECIPE, factors=factors)


def change(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: {**content, **changes}


def change_neuron(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: {**content, "neurons": [content["neurons"][0], {**content["neurons"][1], **changes}]}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(format_version=3), "format_version 1 or 2, got 3"),
        (lambda content: [], "format_version 1 or 2, got None"),
        (lambda content: {**content, "neurons": content["neurons"][:2]}, "must list 3 different neurons, got 2"),
        (lambda content: {**content, "neurons": [content["neurons"][0]] * 3}, "got 3 entries, 1 different"),
        (change(neurons=None), "must list 3 different neurons, got 0"),
        (change(neurons=[], num_neurons=0), "must list 0 different neurons, got 0"),
        (change_neuron(layer=-1), "neuron 1: expected non-negative"),
        (change_neuron(index="3"), "neuron 1: expected non-negative"),
        (change_neuron(index=1.0), "neuron 1: expected non-negative"),
        (change_neuron(layer=True), "neuron 1: expected non-negative"),
        (change_neuron(factor=1.5), "neuron 1: expected a `factor` between 0 and 1"),
        (change_neuron(factor=None), "neuron 1: expected a `factor` between 0 and 1"),
        (change(neurons=[[0, 1]]), "neuron 0: expected non-negative"),
        (
            lambda content: json.loads(json.dumps(content).replace('"index": ', '"index": 1')),
            "sha256 that it names: it was changed",
        ),
        (change(base_model={"weight_hash": "def"}), "sha256 that it names"),
        (change(sha256="0"), "sha256 that it names"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, spoil: Callable[[Any], Any], message: str) -> None:
    path = RECIPE.save(tmp_path / "r.json")
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=rf"r\.json.*{message}"):
        Recipe.load(path)


def test_a_change_that_was_meant(tmp_path: Path) -> None:
    path = RECIPE.save(tmp_path / "r.json")
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps({**content, "options": {"scope": "layer"}}))
    assert Recipe.load(path).options == {"scope": "layer"}


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no recipe at .*missing\.json"):
        Recipe.load(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text('{"format_version": 1')
    with pytest.raises(ValueError, match=r"broken\.json.* no readable recipe"):
        Recipe.load(tmp_path / "broken.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.json.* no readable recipe"):
        Recipe.load(tmp_path / "binary.json")
