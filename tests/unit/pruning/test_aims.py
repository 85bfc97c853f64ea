"""Recipes of several behaviours: what each is for, and exact scores of small contrasts."""

import pytest
import torch

from sparc3_lightning.pruning.aims import Aim, aimed_contrast, aims_of
from sparc3_lightning.pruning.select import select_neurons
from sparc3_lightning.pruning.select_weights import select_weights
from sparc3_lightning.scoring.combine import differential
from sparc3_lightning.scoring.lazy import LazyScores
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.unit.evaluation.fake_run import make_set, module

GENERAL = {"insult": ["ordinary"], "threat": ["ordinary"], "slur": ["slur_contrast"]}


def one_layer(name: str, *scores: float) -> ScoreSet:
    return make_set(name, torch.tensor([scores]), num_samples=4, num_tokens=40, sign="signed")


@pytest.fixture
def sets() -> dict[str, ScoreSet]:
    return {
        "ordinary": one_layer("ordinary", 1.0, 1.0, 1.0, 1.0),
        "insult": one_layer("insult", 5.0, 2.0, 4.0, 1.0),
        "threat": one_layer("threat", 1.0, 2.0, 6.0, -3.0),
    }


@pytest.fixture
def differentials(sets: dict[str, ScoreSet]) -> dict[str, ScoreSet]:
    return {name: differential(sets["ordinary"], sets[name], general_penalty="abs") for name in ("insult", "threat")}


@pytest.mark.parametrize(
    ("kind", "penalty", "scores"),
    [
        # The differentials are -4, -1, -3, 0 and 0, -1, -5, 4.
        ("all", "raw", [-2.0, -1.0, -4.0, 2.0]),
        ("shared", "raw", [0.0, -1.0, -3.0, 4.0]),
        # The highest of insult's own and of threat - insult, which is -4, 0, 2, -4, and with |threat| -4, 0, 2, 2.
        ("specific", "raw", [-4.0, 0.0, 2.0, 0.0]),
        ("specific", "abs", [-4.0, 0.0, 2.0, 2.0]),
    ],
)
def test_scores_of_a_recipe_for_several(
    kind: str,
    penalty: str,
    scores: list[float],
    sets: dict[str, ScoreSet],
    differentials: dict[str, ScoreSet],
) -> None:
    is_specific = kind == "specific"
    serves, others = (("insult",), ("threat",)) if is_specific else (("insult", "threat"), ())
    aim = Aim("one", kind, serves, ("ordinary",), others)
    found = aimed_contrast(aim, differentials, sets, penalty)  # type: ignore[arg-type] # mypy sees a text
    assert found.scores[module(0)].tolist() == scores
    inputs = found.manifest["inputs"]
    assert [one["name"] for one in inputs["behaviour"]] == list(serves)
    assert [one["name"] for one in inputs["general"]] == ["ordinary"]
    assert [one["name"] for one in inputs.get("others", [])] == list(others)
    assert found.manifest["kind"] == "differential"
    assert select_neurons(found, 1).options["recipe"] == kind


def test_one_behaviour_s_recipe_is_selected_from_its_differential(differentials: dict[str, ScoreSet]) -> None:
    aim = Aim("threat", "each", ("threat",), ("ordinary",))
    assert aimed_contrast(aim, differentials, {}) is differentials["threat"]


def test_a_neuron_of_weights_is_its_row(sets: dict[str, ScoreSet]) -> None:
    """The highest of sums, not the sum of the highest."""
    weights = {
        name: ScoreSet({module(0): torch.tensor(rows)}, sets["ordinary"].manifest)
        for name, rows in {"insult": [[-3.0, 1.0], [2.0, 0.0]], "threat": [[2.0, -5.0], [0.0, 1.0]]}.items()
    }
    aim = Aim("shared", "shared", ("insult", "threat"), ())
    assert aimed_contrast(aim, weights, {}).scores[module(0)].tolist() == [-2.0, 2.0]


WEIGHTS = {
    "ordinary": [[1.0, 1.0], [1.0, 1.0]], "insult": [[4.0, 0.0], [-2.0, 3.0]], "threat": [[1.0, 3.0], [-3.0, 4.0]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "scores"),
    [
        # The differentials are -3, 1, 3, -2 and 0, -2, 4, -3.
        ("all", [[-1.5, -0.5], [3.5, -2.5]]),
        ("shared", [[0.0, 1.0], [4.0, -2.0]]),
        # The highest of insult's own and of |threat| - insult, which is -3, 3, 5, 1.
        ("specific", [[-3.0, 3.0], [5.0, 1.0]]),
    ],
)
@pytest.mark.parametrize("is_lazy", [False, True])
def test_single_weights_are_each_for_themselves(kind: str, scores: list[list[float]], is_lazy: bool) -> None:
    """Of lazy scores one module of one set is made at a time, and only when the contrast is asked for it."""
    made: list[str] = []
    names = [module(0), "lm_head"]

    def of(name: str) -> ScoreSet:
        found = make_set(name, torch.tensor([WEIGHTS[name]]), num_samples=4, num_tokens=40, sign="signed")

        def get(layer: str) -> torch.Tensor:
            made.append(f"{name} {layer}")
            return torch.tensor(WEIGHTS[name]) * (2 if layer == "lm_head" else 1)

        lazy = LazyScores(dict.fromkeys(names, (2, 2)), get)
        return ScoreSet(lazy if is_lazy else dict(lazy), found.manifest)

    sets = {name: of(name) for name in WEIGHTS}
    behaviours = ["insult", "threat"]
    contrasts = {name: differential(sets["ordinary"], sets[name], general_penalty="abs") for name in behaviours}
    is_specific = kind == "specific"
    aim = Aim("one", kind, ("insult",) if is_specific else ("insult", "threat"), (), ("threat",) * is_specific)
    made.clear()
    found = aimed_contrast(aim, contrasts, sets, "abs", granularity="weight")
    assert isinstance(found.scores, LazyScores) == is_lazy
    assert made == []
    assert found.scores[module(0)].tolist() == scores
    assert not [one for one in made if "lm_head" in one]
    assert found.scores["lm_head"].tolist() == [[2 * score for score in row] for row in scores], "no neuron's, either"
    assert select_weights(found, 0.25).options["recipe"] == kind


def test_recipes_in_the_order_asked() -> None:
    found = aims_of(GENERAL, ["shared", "each"], ["threat"])
    assert [(one.name, one.kind) for one in found] == [
        ("shared", "shared"), ("insult", "each"), ("threat", "each"), ("slur", "each"),
        ("specific_to_threat", "specific"),
    ]  # fmt: skip
    assert (found[0].behaviours, found[0].general) == (("insult", "threat", "slur"), ("ordinary", "slur_contrast"))
    assert (found[3].behaviours, found[3].general) == (("slur",), ("slur_contrast",))
    assert (found[4].general, found[4].others) == (("ordinary",), ("insult", "slur"))
    assert {one.attribute for one in found} == {None}
    named = aims_of(GENERAL, ["shared", "each", "all"], ["threat"], {"threat": "threat", "slur": "identity_attack"})
    assert {one.name: one.attribute for one in named if one.attribute} == {
        "threat": "threat", "slur": "identity_attack", "specific_to_threat": "threat"
    }, "what is for several is judged by the scorer's main attribute"  # fmt: skip
    assert [one.name for one in aims_of(GENERAL, [], ["slur"])] == ["specific_to_slur"]
    assert [one.name for one in aims_of({"insult": ["ordinary"]})] == ["insult"]


@pytest.mark.parametrize(
    ("behaviours", "recipes", "specific_to", "message"),
    [
        (
            ["a", "b"],
            ["one"],
            [],
            r"`recipes` must be some of \['each', 'all', 'shared'\], got 'one'. Set `PruningCall",
        ),
        (["a", "b"], ["each"], ["c"], r"`specific_to` must be some of \['a', 'b'\], got 'c'.*init_args.specific_to`"),
        (["a"], ["shared"], [], r"recipes `shared` need several behaviours, got \['a'\]. Set `data.behaviours`"),
        (["a"], ["each"], ["a"], r"recipes `specific_to_a` need several behaviours, got \['a'\]"),
        (["a", "b"], [], [], r"`recipes` must name at least one .* got none"),
        (["a", "all"], ["all"], [], r"may bear a recipe's name, got 'all'. Rename `data.behaviours.all`"),
    ],
)
def test_what_cannot_be_made_is_refused(
    behaviours: list[str], recipes: list[str], specific_to: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        aims_of({name: ["ordinary"] for name in behaviours}, recipes, specific_to)
