"""Statistics of a sweep: overlap of selections, and p-values of many cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from scipy.stats import hypergeom
from statsmodels.stats.multitest import multipletests

Neuron = tuple[int, int]


@dataclass(frozen=True)
class Overlap:
    """How far two selections agree.

    Attributes:
        num_shared: Neurons in both.
        jaccard: Shared neurons, of those in either.
        expected: Shared neurons of two random selections of these sizes.
        p_value: Chance that random selections share at least as many; hypergeometric.
    """

    num_shared: int
    jaccard: float
    expected: float
    p_value: float


def overlap(first: Sequence[Neuron], second: Sequence[Neuron], num_neurons: int) -> Overlap:
    """How far two selections agree.

    Args:
        first: Neurons of one selection.
        second: Neurons of the other.
        num_neurons: Neurons of the model.
    """
    ours, theirs = set(first), set(second)
    shared = len(ours & theirs)
    expected = len(ours) * len(theirs) / num_neurons
    p_value = hypergeometric_tail(shared, num_neurons, len(ours), len(theirs))
    return Overlap(shared, shared / len(ours | theirs), expected, p_value)


def hypergeometric_tail(shared: int, population: int, first: int, second: int) -> float:
    """P(at least `shared` of `second` draws without replacement hit `first` marked ones, of `population`)."""
    return float(hypergeom.sf(shared - 1, population, first, second))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: below 0.05, a cell stands out though so many were tried.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    return list(_holm(tuple(p_values)))


@cache  # prices and options often choose the same cells, and statsmodels collects garbage at every call
def _holm(p_values: tuple[float, ...]) -> tuple[float, ...]:
    # It refuses an empty list, too.
    return tuple(float(p) for p in multipletests(p_values, method="holm")[1]) if p_values else ()


def least_holm(least: Sequence[float]) -> float:
    """What no adjusted p-value can be below, from the least that each test can give."""
    return min(1.0, len(least) * min(least))
