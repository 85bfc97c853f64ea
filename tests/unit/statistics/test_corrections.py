"""Overlap, its chance, and corrected p-values, by brute force and by the book."""

from itertools import combinations
from math import comb

import pytest

from sparc3_lightning.statistics.corrections import holm, hypergeometric_tail, overlap


@pytest.mark.parametrize(("population", "first", "second"), [(8, 3, 4), (8, 5, 6), (7, 7, 2), (6, 2, 2)])
def test_hypergeometric_counts_every_selection(population: int, first: int, second: int) -> None:
    marked = set(range(first))
    counts = [len(marked & set(drawn)) for drawn in combinations(range(population), second)]
    for shared in range(min(first, second) + 1):
        wanted = sum(count >= shared for count in counts) / comb(population, second)
        assert hypergeometric_tail(shared, population, first, second) == pytest.approx(wanted, rel=1e-12)


def test_hypergeometric_of_a_large_model() -> None:
    """LLaMA-3-8B: 100 of 458,752. Ten shared by chance is beyond belief, and not rounded to 0."""
    p = hypergeometric_tail(10, 458_752, 100, 100)
    assert 0 < p < 1e-20
    assert hypergeometric_tail(0, 458_752, 100, 100) == pytest.approx(1.0)


def test_overlap() -> None:
    first, second = [(0, 1), (0, 2), (1, 5)], [(1, 5), (0, 1), (1, 9), (1, 8)]
    found = overlap(first, second, 48)
    assert (found.num_shared, found.jaccard, found.expected) == (2, 2 / 5, 3 * 4 / 48)
    assert found.p_value == hypergeometric_tail(2, 48, 3, 4)


def test_holm() -> None:
    # The example of R's p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm").
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.9]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([]) == []
