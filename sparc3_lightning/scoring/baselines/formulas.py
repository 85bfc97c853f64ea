"""The arithmetic of the baselines, without a model."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from sparc3_lightning.scoring.lazy import LazyScores


def wanda_scores(weight: Tensor, squared_norm: Tensor, by_neuron: bool) -> Tensor:
    """`|W_ij| * ||x_j||`, or its sum over each row.

    Args:
        weight: Weight of the layer.
        squared_norm: Squared L2 norm of each input over the tokens that count.
        by_neuron: Row sums, instead of one score a weight.

    Returns:
        Scores in float32 (float64 where the weight is).

    Shape: weight (O, I), squared_norm (I,), result (O,) or (O, I).
    Source: Sun et al., ICLR 2024 (Wanda), Eq. 1.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    norm = squared_norm.sqrt().to(weight.device, dtype)
    return weight.abs().to(dtype) @ norm if by_neuron else weight.abs().to(dtype) * norm


def magnitude_scores(weight: Tensor, by_neuron: bool) -> Tensor:
    """`|W_ij|`, or its sum over each row.

    Shape: weight (O, I), result (O,) or (O, I).
    """
    absolute = weight.abs().to(torch.promote_types(weight.dtype, torch.float32))
    return absolute.sum(1) if by_neuron else absolute


def random_scores(shapes: Mapping[str, tuple[int, ...]], seed: int) -> LazyScores:
    """Uniform in [0, 1), the same on every machine for one seed; one module is drawn at a time, and not kept.

    Args:
        shapes: Of each module's scores, in the order in which they are drawn.
        seed: Seed of the draw.
    """
    generator, places = torch.Generator().manual_seed(seed), {name: place for place, name in enumerate(shapes)}
    states = [generator.get_state()]  # before the draw of each module, as far as was drawn

    def draw(name: str) -> Tensor:
        place = places[name]
        start = min(place, len(states) - 1)
        generator.set_state(states[start])
        for number, shape in enumerate(list(shapes.values())[start : place + 1], start):
            drawn = torch.rand(shape, generator=generator)
            if number + 1 == len(states):
                states.append(generator.get_state())
        return drawn

    return LazyScores(shapes, draw)


# Below this share of a neuron's largest value two values are one: a first token that all samples begin with gives
# every sample the same value, but for rounding, which depends on the batch.
TIES: dict[torch.dtype, float] = {torch.float64: 1e-9, torch.float32: 1e-4}
TIES_OF_HALVES = 1e-2


def auroc(behaviour: Tensor, general: Tensor, ties: float = 0.0) -> Tensor:
    """Chance that a behaviour's sample has a higher value than a general one; ties count half.

    Args:
        behaviour: A value a sample and neuron.
        general: The same of general samples.
        ties: Values that differ by no more than this share of the neuron's largest absolute value are tied.

    Returns:
        One figure a neuron, float64: 1 if every sample of the behaviour is above every general one, 0.5 by chance.

    Shape: behaviour (P, F), general (N, F), result (F,).
    Source: Suau et al., ICML 2024 (AurA), Sec. 3; the Mann-Whitney statistic.
    """
    positives, negatives = behaviour.double().cpu().numpy(), general.double().cpu().numpy()
    margin = ties * np.maximum(np.abs(positives).max(axis=0), np.abs(negatives).max(axis=0))
    # Shifted down a tie counts nothing, shifted up it counts whole: half of it in the mean.
    wins = [mannwhitneyu(positives + shift, negatives, method="asymptotic").statistic for shift in (-margin, margin)]
    return torch.from_numpy((wins[0] + wins[1]) / (2 * len(positives) * len(negatives)))


def lowest_per_row(scores: Tensor, sparsity: float) -> Tensor:
    """The mask of what goes: in each row, the `int(I * sparsity)` lowest scores; ties go to the lower index.

    Shape: scores (O, I), result (O, I) bool.
    Source: github locuslab/wanda, lib/prune.py.
    """
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"`sparsity` must be between 0 and 1, got {sparsity}.")
    return lowest(scores, int(scores.shape[1] * sparsity))


def lowest(scores: Tensor, count: int) -> Tensor:
    """The mask of each row's `count` lowest scores; ties go to the lower index.

    Shape: scores (R, C), result (R, C) bool.
    """
    order = torch.sort(scores, dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
