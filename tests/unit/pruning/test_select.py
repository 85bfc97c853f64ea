"""Selection: most negative first, ties by (layer, index), scopes (method.md, section 2)."""

import warnings

import pytest
import torch

from sparc3_lightning import ScoreSet, attribute, select_neurons
from sparc3_lightning.pruning.select import neuron_scores, num_neurons_of, rank_neurons, select_candidates
from sparc3_lightning.scoring.manifest import Manifest
from tests.tiny import LAYERS, NEURONS, TINY, tiny_samples


def scores(*layers: list[float], **manifest: object) -> ScoreSet:
    content = {f"model.layers.{number}.mlp.up_proj": torch.tensor(values) for number, values in enumerate(layers)}
    return ScoreSet(content, Manifest(**manifest))  # type: ignore[typeddict-item]


SOME = scores([-1.0, 2.0, -5.0, 0.0], [-3.0, -0.5, 1.0, -2.0])


def test_most_negative_first() -> None:
    recipe = select_neurons(SOME, num_neurons=3)
    assert recipe.neurons == [(0, 2), (1, 0), (1, 3)]
    assert recipe.scores == [-5.0, -3.0, -2.0]


def test_all_neurons_in_order() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe = select_neurons(SOME, num_neurons=8)
    assert recipe.neurons == [(0, 2), (1, 0), (1, 3), (0, 0), (1, 1), (0, 3), (1, 2), (0, 1)]
    assert recipe.scores == sorted(recipe.scores)


def test_ties_go_to_the_lower_layer_and_index() -> None:
    # never by memory order: the layers are also given backwards, and there are enough ties for an unstable sort to show
    tied = {f"model.layers.{layer}.mlp.up_proj": torch.full((300,), -1.0) for layer in (2, 11, 1)}
    expected = [(1, index) for index in range(300)] + [(2, index) for index in range(50)]
    for content in (tied, dict(reversed(tied.items()))):
        assert select_neurons(ScoreSet(content), 350).neurons == expected
        spread = select_neurons(ScoreSet(content), 7, scope="layer").neurons
        assert spread == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (11, 0), (11, 1)]


def test_negative_zero_is_zero() -> None:
    with pytest.warns(UserWarning, match="only 0 of the 2"):
        assert select_neurons(scores([0.0, -0.0, -0.0]), 2).neurons == [(0, 0), (0, 1)]


def test_scope_layer_takes_as_many_from_each() -> None:
    recipe = select_neurons(SOME, num_neurons=4, scope="layer")
    assert recipe.neurons == [(0, 2), (1, 0), (1, 3), (0, 0)]
    assert select_neurons(SOME, num_neurons=3, scope="layer").neurons == [(0, 2), (1, 0), (1, 3)]
    lopsided = scores([-9.0, -8.0, -7.0, -6.0], [-1.0, 5.0, 5.0, 5.0])
    assert select_neurons(lopsided, 2).neurons == [(0, 0), (0, 1)]
    assert select_neurons(lopsided, 2, scope="layer").neurons == [(0, 0), (1, 0)]


def test_weight_scores_are_summed_over_rows() -> None:
    weights = torch.tensor([[-1.0, -1.0, -1.0], [-2.0, -2.0, 3.0], [-4.0, 0.5, 0.0]])
    recipe = select_neurons(ScoreSet({"model.layers.0.mlp.up_proj": weights}), 3)
    assert recipe.neurons == [(0, 2), (0, 0), (0, 1)]
    assert recipe.scores == [-3.5, -3.0, -1.0]


def test_rows_are_summed_in_float64() -> None:
    # in float32 the small part of the first row is lost, and the tie goes to it
    weights = torch.tensor([[-(2.0**25), 2.0**25, -1.0], [-(2.0**25), -2.0, 2.0**25]])
    assert select_neurons(ScoreSet({"model.layers.0.mlp.up_proj": weights}), 1).neurons == [(0, 1)]


def test_float_rounding_keeps_the_order_of_distinct_scores() -> None:
    close = torch.tensor([-1.0, -1.0 - 2**-23, -1.0 + 2**-24])
    assert select_neurons(ScoreSet({"model.layers.0.mlp.up_proj": close}), 3).neurons == [(0, 1), (0, 0), (0, 2)]


def test_only_neuron_modules_compete() -> None:
    content = {
        **SOME.scores,
        "model.layers.0.mlp.gate_proj": torch.full((4,), -99.0),
        "lm_head": torch.full((4,), -99.0),
    }
    assert select_neurons(ScoreSet(content), 2).neurons == [(0, 2), (1, 0)]
    with pytest.raises(ValueError, match=r"`scores` must hold neuron modules such as 'model\.layers\.0\.mlp\.up_proj'"):
        select_neurons(ScoreSet({"lm_head": torch.ones(3)}), 1)


@pytest.mark.parametrize("num_neurons", [0, -1, 9])
def test_number_out_of_range(num_neurons: int) -> None:
    with pytest.raises(ValueError, match=rf"`num_neurons` must be between 1 and 8, got {num_neurons}\. Set `Pruning"):
        select_neurons(SOME, num_neurons)


def test_unknown_scope() -> None:
    with pytest.raises(ValueError, match=r"`scope` must be one of .*global.*layer.*got 'row'"):
        select_neurons(SOME, 1, scope="row")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_scores_without_order_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"`scores` of model\.layers\.1\.mlp\.up_proj must be finite"):
        select_neurons(scores([-1.0], [value]), 1)


def test_warning_where_neurons_matter_less_to_the_behaviour() -> None:
    with pytest.warns(UserWarning, match="only 5 of the 6 selected neurons"):
        select_neurons(SOME, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_neurons(SOME, 5)
    rude, curt = {"name": "rude", "num_samples": 3}, {"name": "curt", "num_samples": 2}
    with pytest.warns(UserWarning, match="are more relevant to `rude` than in general"):
        select_neurons(scores([-1.0, 1.0], inputs={"behaviour": rude}), 2)
    with pytest.warns(UserWarning, match=r"are more relevant to `rude` and `curt` \(shared\) than in general"):
        select_neurons(scores([-1.0, 1.0], inputs={"behaviour": [rude, curt], "recipe": "shared"}), 2)


def test_candidates_of_a_screen_need_only_as_many_specific_ones_as_may_be_chosen() -> None:
    """What removing the others does decides: that they are general is no harm."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        candidates = select_candidates(SOME, 6, num_neurons=5)
    with pytest.warns(UserWarning, match="are more relevant to"):
        assert candidates == select_neurons(SOME, 6)
    with pytest.warns(UserWarning, match="only 5 of the 8 candidates of the screen are .* a smaller `num_neurons`"):
        select_candidates(SOME, 8, num_neurons=6)
    with pytest.raises(ValueError, match=r"`screen\.num_candidates` must be between 1 and 8, got 9\. Set `Pruning"):
        select_candidates(SOME, 9, num_neurons=6)


def test_recipe_says_where_it_comes_from() -> None:
    base, options = {"id": "tiny", "weight_hash": "a"}, {"variant": "attnlrp", "sign": "abs"}
    made = scores([-1.0, 1.0], base_model=base, options=options, inputs={"general_weight": 8.0})
    recipe = select_neurons(made, 1, scope="layer")
    assert recipe.base_model == base
    for key, value in {"num_neurons": 1, "scope": "layer", "general_weight": 8.0, **options}.items():
        assert recipe.options[key] == value


def test_rank_covers_every_neuron_once() -> None:
    for scope in ("global", "layer"):
        layer, index, score = rank_neurons(SOME, scope)
        assert sorted(zip(layer.tolist(), index.tolist(), strict=True)) == [(a, b) for a in range(2) for b in range(4)]
        for a, b, value in zip(layer.tolist(), index.tolist(), score.tolist(), strict=True):
            assert SOME.scores[f"model.layers.{a}.mlp.up_proj"][b].item() == value


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
def test_a_neuron_of_a_fused_layer_scores_its_own_row_not_the_gates(granularity: str) -> None:
    model = TINY["phi3"]()
    scores = attribute(model, tiny_samples(), granularity=granularity)
    assert num_neurons_of(scores) == LAYERS * NEURONS
    for layer, found in neuron_scores(scores).items():
        rows = scores.scores[f"model.layers.{layer}.mlp.gate_up_proj"].double().reshape(2 * NEURONS, -1).sum(1)
        assert torch.equal(found, rows[NEURONS:])
