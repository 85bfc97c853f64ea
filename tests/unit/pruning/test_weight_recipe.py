"""The recipe of single weights: its two files, its rows, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparc3_lightning import Recipe, WeightRecipe, load_recipe
from sparc3_lightning.files import json_sha256

UP, Q = "model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"
BASE = {"id": "tiny", "revision": None, "model_type": "llama", "num_layers": 2, "weight_hash": "a" * 64}


def recipe_of(**fields: Any) -> WeightRecipe:
    given: dict[str, Any] = {
        "weights": {UP: np.array([1, 5, 9, 22]), Q: np.array([3])},
        "shapes": {Q: (4, 4), UP: (6, 4), "lm_head": (7, 4)},
        "scores": {UP: np.array([-1, -2, -4, -8]), Q: np.array([-5])},
        "base_model": BASE,
        "options": {"sparsity": 0.05, "scope": "global"},
    }
    return WeightRecipe(**{**given, **fields})


MEASURED = [{"effect": 0.5, "price": None, "unit": "nats"}, {"effect": 0.25, "price": 0.1, "unit": "nats"}]


def test_round_trip(tmp_path: Path) -> None:
    recipe = recipe_of()
    path = recipe.save(tmp_path / "runs" / "mine.json")
    assert sorted(file.name for file in path.parent.iterdir()) == ["mine.json", "mine.safetensors"]
    found = WeightRecipe.load(path)
    assert found == recipe
    assert found.weights[UP].dtype == np.int32
    assert found.scores[UP].tolist() == [-1, -2, -4, -8]
    assert list(found.weights) == [Q, UP], "in the order of `shapes`"
    assert load_recipe(path) == recipe


def test_directory(tmp_path: Path) -> None:
    assert recipe_of().save(tmp_path).name == "pruned_weights.json"
    assert (tmp_path / "pruned_weights.safetensors").is_file()
    assert WeightRecipe.load(tmp_path) == load_recipe(tmp_path) == recipe_of()


def test_other_recipes_are_not_equal() -> None:
    assert recipe_of() != recipe_of(weights={UP: np.array([1, 5, 9, 23]), Q: np.array([3])})
    assert recipe_of() != recipe_of(options={})
    assert recipe_of() != Recipe([(0, 1)])
    assert recipe_of().sha256 == recipe_of(options={}, scores={}, base_model={}).sha256
    assert recipe_of().sha256 != recipe_of(weights={UP: np.array([1, 5, 9]), Q: np.array([3])}, scores={}).sha256


def test_indices_too_large_for_32_bits_are_whole() -> None:
    large = WeightRecipe({"x": np.array([2**31 + 5])}, {"x": (2**16, 2**16)})
    assert large.weights["x"].dtype == np.int64
    assert large.weights["x"].tolist() == [2**31 + 5]


def test_what_it_counts() -> None:
    recipe = recipe_of()
    assert (recipe.num, recipe.num_scored, recipe.first_block) == (5, 68, 0)
    assert recipe_of(weights={UP: np.array([1])}, scores={}).first_block == 1
    assert recipe_of(weights={"lm_head": np.array([1])}).first_block == 1, "the last block's pass comes by it"
    assert recipe_of(base_model={}).first_block == 0
    assert recipe.parts() == [
        {"layer": 0, "kind": "self_attn.q_proj", "num_removed": 1, "num": 16},
        {"layer": 1, "kind": "mlp.up_proj", "num_removed": 4, "num": 24},
        {"layer": None, "kind": "lm_head", "num_removed": 0, "num": 28},
    ]


def test_rows_are_units_the_lowest_sum_first() -> None:
    recipe = recipe_of()
    # UP's rows 0, 1, 2 and 5 hold one each; with 5 and 9 in row 1 and 2
    assert recipe.candidates == [(UP, 5), (Q, 0), (UP, 2), (UP, 1), (UP, 0)]
    assert recipe.candidate_scores == [-8, -5, -4, -2, -1]
    summed = recipe_of(weights={UP: np.array([4, 5, 6, 23])}, scores={UP: np.array([-1, -1, -1, -2.5])})
    assert list(zip(summed.candidates, summed.candidate_scores, strict=True)) == [((UP, 1), -3), ((UP, 5), -2.5)]
    tied = recipe_of(weights={UP: np.array([5, 9]), Q: np.array([15])}, scores={UP: -np.ones(2), Q: -np.ones(1)})
    assert tied.candidates == [(Q, 3), (UP, 1), (UP, 2)]


def test_fewer_rows_with_what_was_measured_of_them(tmp_path: Path) -> None:
    recipe = recipe_of(rows=[(UP, 5), (Q, 0)], measured=MEASURED, weights={UP: np.array([22]), Q: np.array([3])},
                       scores={UP: np.array([-8]), Q: np.array([-5])})  # fmt: skip
    assert recipe.candidates == [(UP, 5), (Q, 0)]
    assert WeightRecipe.load(recipe.save(tmp_path)) == recipe
    rows = json.loads((tmp_path / "pruned_weights.json").read_text())["rows"]
    assert rows[0] == {"module": UP, "row": 5, "score": -8.0, **MEASURED[0]}
    one = recipe.only([(Q, 0)])
    assert ({name: found.tolist() for name, found in one.weights.items()}, one.measured) == ({Q: [3]}, [MEASURED[1]])
    assert one.shapes == recipe.shapes
    assert recipe.only([]).num == 0
    backwards = recipe_of().only([(UP, 1), (UP, 5)])
    assert backwards.candidates == [(UP, 1), (UP, 5)], "in the order given"
    assert backwards.weights[UP].tolist() == [5, 22]


@pytest.mark.parametrize(
    ("indices", "got"),
    [
        ([3, 1], "3 before 1"),
        ([1, 1], "1 before 1"),
        ([-1, 2], "-1 to 2"),
        ([2, 24], "2 to 24"),
        ([0.0, 1.0], "float64"),
    ],
    ids=["order", "twice", "below", "above", "floats"],
)
def test_what_names_no_weights_is_refused(indices: list[int], got: str) -> None:
    said = rf"`weights` of {UP} must be ascending integers below 24, of its 6 x 4 weights, got {got}\."
    with pytest.raises(ValueError, match=said):
        recipe_of(weights={UP: np.array(indices)}, scores={})


def test_a_layer_without_a_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must hold \(O, I\) of every layer in `weights`, got none for lm_head2"):
        recipe_of(weights={"lm_head2": np.array([1])})
    with pytest.raises(ValueError, match=rf"`shapes` of {UP} must be two numbers above 0, \(O, I\), got \[6\]"):
        recipe_of(shapes={Q: (4, 4), UP: (6,)})


def test_scores_are_one_for_each_weight() -> None:
    with pytest.raises(ValueError, match=rf"`scores` of {UP} must be one for each of its 4 weights, got 1\."):
        recipe_of(scores={UP: np.array([-1.0])})


def test_rows_are_those_of_the_weights() -> None:
    rows = [(UP, 0), (UP, 1), (UP, 2), (UP, 5), (Q, 0)]
    assert recipe_of(rows=rows).candidates == rows
    for wrong, said in (
        (rows[1:], rf"got row 0 of {UP} not at all"),
        ([*rows, (Q, 3)], rf"got row 3 of {Q} too often"),
        ([*rows, rows[0]], rf"got row 0 of {UP} too often"),
    ):
        with pytest.raises(ValueError, match=f"`rows` must name every row that a weight lies in, each once, {said}"):
            recipe_of(rows=wrong)
    with pytest.raises(ValueError, match="`measured` must be of each of 5 rows, got 2"):
        recipe_of(rows=rows, measured=MEASURED)


def test_a_directory_with_a_recipe_of_either_kind_is_refused(tmp_path: Path) -> None:
    recipe_of().save(tmp_path)
    Recipe([(0, 1)]).save(tmp_path)
    for load in (load_recipe, Recipe.load):
        with pytest.raises(ValueError, match=r"one recipe, got pruned_neurons\.json and pruned_weights\.json"):
            load(tmp_path)
    assert load_recipe(tmp_path / "pruned_weights.json") == recipe_of()


def test_each_kind_says_what_reads_the_other(tmp_path: Path) -> None:
    recipe_of().save(tmp_path)
    for path in (tmp_path, tmp_path / "pruned_weights.json"):
        with pytest.raises(ValueError, match=r"must be a recipe of neurons, got one of single weights.*load_recipe"):
            Recipe.load(path)
    neurons = Recipe([(0, 1)]).save(tmp_path / "neurons.json")
    with pytest.raises(ValueError, match=r"neurons\.json must be a recipe of weights, got none.*load_recipe"):
        WeightRecipe.load(neurons)
    assert load_recipe(neurons) == Recipe([(0, 1)])
    (tmp_path / "of_neurons").mkdir()
    Recipe([(0, 1)]).save(tmp_path / "of_neurons")
    assert load_recipe(tmp_path / "of_neurons") == Recipe([(0, 1)])
    with pytest.raises(FileNotFoundError, match=r"no recipe at .*missing\.json"):
        load_recipe(tmp_path / "missing.json")


def rewritten(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Changed, with a sha256 that fits."""
    rest = {key: value for key, value in {**content, **changes}.items() if key != "sha256"}
    return {**rest, "sha256": json_sha256(rest)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: {**content, "num_weights": 4}, "sha256 that it names: it was changed"),
        (lambda content: rewritten(content, format_version=2), "format_version 1, got 2"),
        (
            lambda content: rewritten(content, rows=[{"module": UP, "row": 4}]),
            r"json is no .*got row \d of .* not at all",
        ),
        (
            lambda content: rewritten(content, modules=[{**one, "shape": [4]} for one in content["modules"]]),
            r"json is no recipe of weights: `shapes` of .* got \[4\]",
        ),
        (
            lambda content: rewritten(content, modules=[{**one, "shape": [4, 4]} for one in content["modules"]]),
            r"json is no recipe of weights: `weights` of .* below 16",
        ),
        (lambda content: rewritten(content, kind="neurons"), "must be a recipe of weights, got none"),
        (lambda content: rewritten(content, tensors_sha256="0"), r"safetensors must have sha256 0: it is truncated"),
        (lambda content: rewritten(content, modules=content["modules"][:2]), "ok"),
        (lambda content: rewritten(content, modules=content["modules"][1:]), "must count the weights of each layer"),
        (lambda content: rewritten(content, modules=[]), "must count the weights of each layer"),
        (lambda content: rewritten(content, modules=None), "is no recipe of weights: TypeError"),
        (lambda content: rewritten(content, rows=[{"module": UP}]), "is no recipe of weights: KeyError"),
    ],
)
def test_a_damaged_json_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    path = recipe_of().save(tmp_path / "r.json")
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    if message == "ok":
        assert WeightRecipe.load(path).num == 5, "a layer that lost nothing is not missed"
        return
    with pytest.raises(ValueError, match=rf"r\..*{message}"):
        WeightRecipe.load(path)


def test_damaged_indices_are_refused_by_name(tmp_path: Path) -> None:
    path, tensors = recipe_of().save(tmp_path / "r.json"), tmp_path / "r.safetensors"
    whole = tensors.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        tensors.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"r\.safetensors must have sha256"):
            WeightRecipe.load(path)
    tensors.unlink()
    with pytest.raises(FileNotFoundError, match=r"no indices of the weights at .*r\.safetensors"):
        WeightRecipe.load(path)
    with pytest.raises(ValueError, match=r"must be FILE\.json"):
        recipe_of().save(tmp_path / "r.txt")


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    recipe_of().save(tmp_path / "a.json")
    recipe_of().save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
