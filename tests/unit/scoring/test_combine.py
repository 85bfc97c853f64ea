"""Differential, strength, seed variation; sets that do not belong together (method.md, section 2)."""

import copy
from collections.abc import Callable
from statistics import mean, stdev

import pytest
import torch

from sparc3_lightning import ScoreSet, differential
from sparc3_lightning.scoring.combine import as_shares, differential_strength, seed_variation
from sparc3_lightning.scoring.manifest import Manifest

UP = "model.layers.0.mlp.up_proj"


def manifest(name: str = "set", sign: str = "abs") -> Manifest:
    return Manifest(
        format_version=1,
        kind="scores",
        base_model={"id": "tiny", "model_type": "llama", "weight_hash": "a" * 64},
        tokenizer_hash="b" * 64,
        options={
            "variant": "attnlrp",
            "target": "last_token_argmax",
            "sign": sign,
            "granularity": "neuron",
            "modules": "all",
        },
        left_out=["lm_head"],
        data={"name": name, "token_hash": "c", "num_samples": 3},
        model_dtype="float32",
    )


def score_set(*values: float, name: str = "set", sign: str = "abs") -> ScoreSet:
    return ScoreSet({UP: torch.tensor(values)}, manifest(name, sign))


def values(scores: ScoreSet) -> list[float]:
    return scores.scores[UP].tolist()


GENERAL = [score_set(1.0, 2.0, 0.0, name="general_seed0"), score_set(3.0, 2.0, 1.0, name="general_seed1")]
TOXIC = score_set(1.5, 4.0, 0.25, name="toxic")


def test_general_minus_behaviour() -> None:
    # Trap 20: flipped, it would prune the general neurons.
    assert values(differential(GENERAL, TOXIC)) == [0.5, -2.0, 0.25]
    assert values(differential(GENERAL[:1], TOXIC)) == [-0.5, -2.0, -0.25]


@pytest.mark.parametrize(
    ("weight", "penalty", "expected"),
    [(1.0, "raw", [-3.0, 1.0]), (8.0, "raw", [-17.0, 15.0]), (1.0, "abs", [1.0, 1.0]), (8.0, "abs", [15.0, 15.0])],
)
def test_weight_and_penalty(weight: float, penalty: str, expected: list[float]) -> None:
    general, toxic = score_set(-2.0, 2.0, sign="signed"), score_set(1.0, 1.0, sign="signed")
    result = differential([general], toxic, general_weight=weight, general_penalty=penalty)
    assert values(result) == expected
    assert result.manifest["inputs"]["general_weight"] == weight
    assert result.manifest["inputs"]["general_penalty"] == penalty


def test_penalty_is_taken_of_the_mean() -> None:
    sets = [score_set(-2.0, sign="signed"), score_set(2.0, sign="signed")]
    assert values(differential(sets, score_set(1.0, sign="signed"), general_penalty="abs")) == [-1.0]


def test_mean_is_taken_in_float64() -> None:
    sets = [score_set(1e8), score_set(1.0), score_set(1.0)]
    assert values(differential(sets, score_set(0.0))) == [33_333_334.0], "float32 sums to 1e8, and gives ...332"


def test_manifest_of_a_differential() -> None:
    result = differential(GENERAL, TOXIC)
    assert result.manifest["kind"] == "differential"
    assert [data["name"] for data in result.manifest["inputs"]["general"]] == ["general_seed0", "general_seed1"]
    assert result.manifest["inputs"]["behaviour"]["name"] == "toxic"
    for field in ("base_model", "options", "left_out", "tokenizer_hash"):
        assert result.manifest[field] == TOXIC.manifest[field]


def test_sets_made_by_hand_combine() -> None:
    assert values(differential([ScoreSet({UP: torch.ones(2)})], ScoreSet({UP: torch.tensor([0.5, 2.0])}))) == [
        0.5,
        -1.0,
    ]


def change(path: str, value: object) -> Callable[[ScoreSet], None]:
    def apply(scores: ScoreSet) -> None:
        target: dict[str, object] = scores.manifest  # type: ignore[assignment]
        *parents, last = path.split(".")
        for key in parents:
            target = target[key]  # type: ignore[assignment]
        target[last] = value

    return apply


OTHERS: list[tuple[Callable[[ScoreSet], None], str]] = [
    (change("base_model.weight_hash", "d" * 64), "model's weight hash agree, got 'aaa.*general_seed0.*'ddd.*toxic"),
    (change("options.sign", "signed"), "options agree, got .*'sign': 'abs'.*'sign': 'signed'"),
    (change("options.target", "token:3"), "options agree"),
    (change("options.variant", "cp_lrp"), "options agree"),
    (change("options.granularity", "weight"), "options agree"),
    (change("options.modules", "neurons"), "options agree"),
    (change("tokenizer_hash", "e" * 64), "tokenizer hash agree"),
    (lambda s: s.scores.update({UP: torch.ones(4)}), "modules and shapes agree"),
    (lambda s: s.scores.update({"lm_head": torch.ones(3)}), "modules and shapes agree"),
]


@pytest.mark.parametrize(("spoil", "message"), OTHERS)
def test_sets_that_do_not_belong_together(spoil: Callable[[ScoreSet], None], message: str) -> None:
    toxic = copy.deepcopy(TOXIC)
    spoil(toxic)
    with pytest.raises(ValueError, match=f"combine only if their {message}"):
        differential(GENERAL, toxic)
    other = copy.deepcopy(toxic)
    other.manifest["data"]["name"] = "toxic"
    with pytest.raises(ValueError, match="combine only if"):
        differential([GENERAL[0], other], TOXIC)


def test_contrasted_targets_do_not_combine_with_others() -> None:
    """Equal options, but a difference of two tokens is no logit of one. Sets that say nothing are not contrasted."""
    general, toxic = copy.deepcopy(GENERAL), copy.deepcopy(TOXIC)
    toxic.manifest["data"]["against_ids"] = [3, -1, 5]
    with pytest.raises(
        ValueError, match=r"options agree, got .*'contrasted': False.*general_seed0.*'contrasted': True"
    ):
        differential(general, toxic)
    with pytest.raises(ValueError, match="options agree"):
        differential([general[0], toxic], TOXIC)
    for general_set in general:
        general_set.manifest["data"]["against_ids"] = [-1, -1, 7]
    inputs = differential(general, toxic).manifest["inputs"]
    assert inputs["behaviour"] == {"name": "toxic", "token_hash": "c", "num_samples": 3, "contrasted": True}
    assert "contrasted" not in differential(GENERAL, TOXIC).manifest["inputs"]["behaviour"]


def test_a_differential_is_no_reference_set() -> None:
    contrast = differential(GENERAL, TOXIC)
    for arguments in ((GENERAL, contrast), ([contrast], TOXIC), ([contrast], contrast)):
        with pytest.raises(ValueError, match="got a differential"):
            differential(*arguments)


def test_no_general_set() -> None:
    with pytest.raises(ValueError, match="`general_sets` must hold at least one"):
        differential([], TOXIC)


@pytest.mark.parametrize("weight", [0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_bad_weight(weight: float) -> None:
    with pytest.raises(ValueError, match=r"`general_weight` must be a number of at least 1, got .*PruningCallback"):
        differential(GENERAL, TOXIC, general_weight=weight)


def test_bad_penalty() -> None:
    with pytest.raises(ValueError, match=r"`general_penalty` must be one of \['abs', 'raw'\], got 'square'"):
        differential(GENERAL, TOXIC, general_penalty="square")


def test_strength() -> None:
    # (mean of totals 3 and 6) = 4.5 against 5.75
    assert differential_strength(GENERAL, TOXIC) == pytest.approx((4.5 - 5.75) / 4.5)
    signed = score_set(1.0, sign="signed")
    assert differential_strength([signed], signed) is None
    assert differential_strength([score_set(0.0)], score_set(1.0)) is None


def test_seed_variation() -> None:
    # one seed; then by hand: neurons (1, 3), (2, 2), (0, 1)
    assert seed_variation(GENERAL[:1]) is None
    signed = [score_set(-1.0, 2.0, sign="signed"), score_set(1.1, 2.1, sign="signed")]
    assert seed_variation(signed) is None, "its mean is near 0, and a deviation would be any number of times that"
    expected = mean(stdev(pair) / mean(pair) for pair in ((1.0, 3.0), (2.0, 2.0), (0.0, 1.0)))
    assert seed_variation(GENERAL) == pytest.approx(expected)
    assert seed_variation([score_set(0.0), score_set(0.0)]) is None
    assert seed_variation([score_set(0.0, 1.0), score_set(0.0, 1.0)]) == 0.0


def test_shares_weigh_sets_of_different_totals_the_same() -> None:
    general, toxic = score_set(10.0, 30.0), score_set(0.5, -0.5, sign="signed")
    assert values(as_shares(general)) == [0.25, 0.75]
    # The total of absolute scores: signed ones cancel.
    assert values(as_shares(toxic)) == [0.5, -0.5]
    shares = as_shares(general)
    assert shares.manifest["data"]["divided_by"] == 40.0
    assert "divided_by" not in general.manifest["data"]
    assert values(differential([shares], as_shares(score_set(3.0, 1.0)))) == [-0.5, 0.5]
    with pytest.raises(ValueError, match="must not all be zero"):
        as_shares(score_set(0.0, 0.0))
