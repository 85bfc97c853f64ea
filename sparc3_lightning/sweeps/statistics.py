"""Statistics of a sweep: overlap of selections, and p-values of many cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma

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

    def log_choose(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    total = log_choose(population, second)
    least, most = max(shared, first + second - population), min(first, second)
    terms = [
        exp(log_choose(first, hits) + log_choose(population - first, second - hits) - total)
        for hits in range(max(least, 0), most + 1)
    ]
    return min(1.0, sum(sorted(terms)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: below 0.05, a cell stands out though so many were tried.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
