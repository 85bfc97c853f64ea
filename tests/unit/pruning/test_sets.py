"""Which sets are general, and whether they are as different as their names."""

import warnings

import pytest

from sparc3_lightning.pruning.sets import match_general, warn_of_shared_samples


def test_general_sets_keep_their_order_and_leave_the_behaviour_out() -> None:
    assert match_general(["b", "toxic", "a"], ["*"], "toxic") == ["b", "a"]


@pytest.mark.parametrize(("general", "behaviour"), [("a*", "rude"), ("c*", "toxic"), ("toxic", "toxic")])
def test_names_that_match_nothing_are_refused(general: str, behaviour: str) -> None:
    with pytest.raises(ValueError, match=r"PruningCallback\.init_args\.(general|behaviour)"):
        match_general(["a", "toxic"], [general], behaviour)


def test_the_same_texts_twice_are_told() -> None:
    """Two seeds by name that are one by mistake would agree perfectly."""
    sets = {"general_seed0": ["x", "y"], "general_seed1": ["y", "x"], "toxic": ["z"]}
    with pytest.warns(
        UserWarning, match="2 texts of reference set 'general_seed0' are also in 'general_seed1'"
    ) as told:
        warn_of_shared_samples(sets)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_shared_samples({"general_seed0": ["x"], "toxic": ["z"]})
