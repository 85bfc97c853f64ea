"""Selection of single weights: the lowest of all, against a sort; ties; scopes."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from sparc3_lightning import ScoreSet, attribute, differential, select_weights
from sparc3_lightning.pruning.select_weights import extreme_weights, row_scores, scored_by
from sparc3_lightning.pruning.weight_recipe import WeightRecipe
from sparc3_lightning.scoring.manifest import Manifest
from tests.tiny import TINY, tiny_samples

Q, V, UP, HEAD = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.v_proj",
    "model.layers.1.mlp.up_proj",
    "lm_head",
)
LLAMA = {"id": "tiny", "model_type": "llama", "num_layers": 2, "num_neurons": 12}


def score_set(scores: dict[str, Tensor], **manifest: object) -> ScoreSet:
    return ScoreSet(scores, Manifest(base_model=LLAMA, **manifest))  # type: ignore[typeddict-item]


def random_scores(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {HEAD: (11, 5), UP: (6, 5), V: (3, 5), Q: (5, 5)}  # as files list them: not in the model's order
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def chosen(recipe: WeightRecipe) -> list[tuple[str, int]]:
    return [(name, index) for name, indices in recipe.weights.items() for index in indices.tolist()]


def by_sort(scores: dict[str, Tensor], order: list[str], num: int) -> list[tuple[str, int]]:
    """All values in float64, in one list; a stable sort leaves ties in its order."""
    places = [(name, index) for name in order for index in range(scores[name].numel())]
    values = torch.cat([scores[name].double().flatten() for name in order])
    first = values.sort(stable=True).indices[:num].sort().values
    return [places[place] for place in first.tolist()]


@pytest.mark.parametrize("sparsity", [0.001, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_lowest_of_all_as_a_sort_has_them(sparsity: float, seed: int) -> None:
    scores = random_scores(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe = select_weights(score_set(scores), sparsity)
    num = max(1, round(sparsity * 125))
    assert recipe.num == num == recipe.options["num_weights"]
    assert chosen(recipe) == by_sort(scores, [Q, V, UP, HEAD], num)
    assert all(
        np.array_equal(recipe.scores[name], scores[name].flatten()[torch.from_numpy(indices).long()].numpy())
        for name, indices in recipe.weights.items()
    )


def test_ties_go_to_the_first_layer_and_the_lower_index() -> None:
    scores = {name: torch.full(score.shape, -1.0) for name, score in random_scores().items()}
    scores[V][1, 2] = -2.0
    recipe = select_weights(score_set(scores), 28 / 125)
    assert {name: indices.tolist() for name, indices in recipe.weights.items()} == {Q: [*range(25)], V: [0, 1, 7]}
    assert chosen(recipe) == by_sort(scores, [Q, V, UP, HEAD], 28)


def test_every_layer_gives_the_same_share_with_scope_layer() -> None:
    scores = random_scores()
    scores[HEAD] -= 100  # takes all where all compete
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe = select_weights(score_set(scores), 0.1, "layer")
        everywhere = select_weights(score_set(scores), 0.1)
    assert {name for name, _ in chosen(everywhere)} == {HEAD}
    expected = [*by_sort(scores, [Q, V], 4), *by_sort(scores, [UP], 3), *by_sort(scores, [HEAD], 6)]
    assert chosen(recipe) == expected, "blocks 0 and 1, and what lies in none"


def test_the_highest_are_those_of_the_negative() -> None:
    scores = random_scores()
    highest = dict(extreme_weights(score_set(scores), 0.1, order="highest"))
    lowest = dict(extreme_weights(score_set({name: -score for name, score in scores.items()}), 0.1))
    assert {name: found.tolist() for name, found in highest.items()} == {n: f.tolist() for n, f in lowest.items()}


def test_what_is_not_below_zero_is_told() -> None:
    scores = score_set({Q: torch.tensor([[-1.0, 0.0], [-0.0, 3.0]])})
    with pytest.warns(UserWarning, match="only 1 of the 2 selected weights are more relevant"):
        assert select_weights(scores, 0.5).weights[Q].tolist() == [0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_weights(scores, 0.25)
    named = score_set(scores.scores, inputs={"behaviour": {"name": "toxic"}})  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="weights are more relevant to `toxic` than in general"):
        select_weights(named, 0.5)


def test_what_cannot_be_selected() -> None:
    scores = score_set(random_scores())
    for sparsity in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"`sparsity` must lie above 0 and below 1, got {sparsity}.*init_args"):
            select_weights(scores, sparsity)
    with pytest.raises(ValueError, match="`scope` must be one of"):
        select_weights(scores, 0.1, "row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one a row of model\.layers\.0.*`model\.granularity: weight`"):
        select_weights(score_set({Q: torch.zeros(3)}), 0.1)
    for value in (torch.nan, -torch.inf):
        with pytest.raises(ValueError, match=rf"`scores` of {Q} must be finite"):
            select_weights(score_set({Q: torch.tensor([[0.0, value]])}), 0.5)


def test_the_recipe_says_where_it_comes_from() -> None:
    made = score_set(random_scores(), options={"sign": "abs", "sparsity": 0.7}, inputs={"general_weight": 8.0})
    recipe = select_weights(made, 0.1, "layer")
    assert recipe.base_model == LLAMA
    assert list(recipe.shapes) == [Q, V, UP, HEAD]
    for key, value in {
        "sparsity": 0.1,
        "scope": "layer",
        "general_weight": 8.0,
        "sign": "abs",
        "method": "lrp",
    }.items():
        assert recipe.options[key] == value


def test_another_methods_scores_of_the_same_weights() -> None:
    recipe, other = select_weights(score_set(random_scores()), 0.2), random_scores(5)
    found = scored_by(score_set({name: other[name] for name in (Q, V, UP)}), recipe)
    for row, total in zip(found.candidates, found.candidate_scores, strict=True):
        columns = [index % 5 for name, index in chosen(recipe) if (name, index // 5) == row]
        if row[0] == HEAD:
            assert np.isnan(total)
        else:
            assert total == pytest.approx(other[row[0]][row[1], columns].double().sum().item())
    assert np.isnan(scored_by(score_set({Q: torch.zeros(5)}), recipe).candidate_scores).all(), "scores of neurons alone"


def test_a_ranking_is_held_against_rows_by_the_mean() -> None:
    """It has no zero: a sum would follow how many weights a row loses, whatever they are."""
    generator = torch.Generator().manual_seed(3)
    counts = [1 + row % 40 for row in range(400)]
    indices = [row * 40 + column for row, count in enumerate(counts) for column in range(count)]
    recipe = WeightRecipe({HEAD: np.array(indices)}, {HEAD: (400, 40)})
    made = {HEAD: torch.rand(400, 40, generator=generator)}
    rows = [row for _, row in recipe.candidates]
    found = row_scores(score_set(made, kind="ranking"), recipe)
    assert found == pytest.approx([made[HEAD][row, : counts[row]].double().mean().item() for row in rows])
    count_of = [counts[row] for row in rows]
    assert abs(np.corrcoef(found, count_of)[0, 1]) < 0.15
    summed = row_scores(score_set(made, kind="differential"), recipe)
    assert summed == pytest.approx([made[HEAD][row, : counts[row]].double().sum().item() for row in rows])
    assert np.corrcoef(summed, count_of)[0, 1] > 0.9
    assert np.isnan(row_scores(score_set({Q: made[HEAD]}, kind="ranking"), recipe)).all()


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family_s_layers_are_in_the_order_of_its_blocks(family: str) -> None:
    model = TINY[family]()
    scores = [attribute(model, tiny_samples(seed=seed), granularity="weight", modules="all") for seed in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe = select_weights(differential([scores[0]], scores[1]), 0.01)
    places = [part["layer"] for part in recipe.parts()]
    assert places == [0] * (len(places) // 2) + [1] * (len(places) // 2) + [None] * (len(places) % 2)
    assert recipe.shapes == {name: tuple(score.shape) for name, score in scores[0].scores.items()}


def test_weights_of_a_model_that_is_named_nowhere() -> None:
    """A set made by hand: its own order."""
    recipe = select_weights(ScoreSet({"b": -torch.ones(1, 2), "a": -torch.ones(1, 2)}), 0.5)
    assert recipe.weights.keys() == {"b"}
