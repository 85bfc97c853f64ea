import pytest

from sparc3_lightning.metrics import uniqueness


@pytest.mark.parametrize(("ids", "expected"), [([5, 5, 5, 5], 0.25), ([1, 2, 3], 1.0), ([7], 1.0), ([1, 2, 1], 2 / 3)])
def test_uniqueness_is_unique_over_total(ids: list[int], expected: float) -> None:
    assert uniqueness(ids) == pytest.approx(expected)


def test_an_empty_completion_has_none() -> None:
    assert uniqueness([]) is None
