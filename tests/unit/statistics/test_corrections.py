"""Overlap, its chance, and corrected p-values, by brute force and by the book."""

from itertools import combinations
from math import comb

import pytest

from sparc3_lightning.statistics.p_values import Overlap, holm, overlap


def shared_by(shared: int, population: int, first: int, second: int) -> Overlap:
    """Two selections with so many neurons in common."""
    ours, theirs = range(first), range(first - shared, first - shared + second)
    return overlap({0: ours}, {0: theirs}, population)


@pytest.mark.parametrize(("population", "first", "second"), [(8, 3, 4), (8, 5, 6), (7, 7, 2), (6, 2, 2)])
def test_its_chance_counts_every_selection(population: int, first: int, second: int) -> None:
    marked = set(range(first))
    counts = [len(marked & set(drawn)) for drawn in combinations(range(population), second)]
    for shared in range(min(first, second) + 1):
        wanted = sum(count >= shared for count in counts) / comb(population, second)
        assert shared_by(shared, population, first, second).p_value == pytest.approx(wanted, rel=1e-12)


def test_its_chance_in_a_large_model() -> None:
    """LLaMA-3-8B: 100 of 458,752. Ten shared by chance is beyond belief, and not rounded to 0."""
    assert 0 < shared_by(10, 458_752, 100, 100).p_value < 1e-20
    assert shared_by(0, 458_752, 100, 100).p_value == pytest.approx(1.0)


def test_overlap() -> None:
    found = overlap({0: [1, 2], 1: [5]}, {1: [5, 9, 8], 0: [1]}, 48)
    assert (found.num_shared, found.jaccard, found.expected) == (2, 2 / 5, 3 * 4 / 48)
    assert found.p_value == pytest.approx(sum(comb(3, n) * comb(45, 4 - n) for n in (2, 3)) / comb(48, 4))


def test_holm() -> None:
    # The example of R's p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm").
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.9]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([]) == []
