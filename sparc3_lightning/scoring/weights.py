"""Methods made of the weights, gathered one layer at a time where they are sharded."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.distributed.owners import gather_to_owner, own_rows, share_out
from sparc3_lightning.distributed.ranks import rank_and_world_size
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.models.sharding import reshard
from sparc3_lightning.scoring.lazy import LazyScores
from sparc3_lightning.scoring.manifest import Options, SetData
from sparc3_lightning.scoring.method import Method, Ranking, Scored, ScoresRows, of_rank_zero


class MadeOfWeights(Method, ScoresRows):
    """A formula over each layer's weight, and what was seen of its inputs."""

    @abstractmethod
    def of_weight(self, name: str, weight: Tensor, by_neuron: bool, seen: Any) -> Tensor:
        """Scores of a layer's weight, or of some of its rows.

        Args:
            name: The layer's name.
            weight: Its weight.
            by_neuron: Row sums, instead of one score a weight.
            seen: What of the forward pass the method needs.

        Shape: weight (O, I), result (O,) or (O, I).
        """

    def made(self, seen: Any = None) -> dict[str, Tensor]:
        """Scores of the layers, on the CPU of the rank that each belongs to. Every rank must call.

        Args:
            seen: What of the forward pass the method needs.
        """
        model, names, by_neuron = self.scoring.model, self.scoring.names, self.scoring.by_neuron
        reshard(model)
        rank, num_ranks = rank_and_world_size()
        sizes = {name: math.prod(shape) for name, shape in score_shapes(model, names, by_neuron=False).items()}
        owners = dict.fromkeys(names, 0) if by_neuron else share_out(sizes, num_ranks)
        scores: dict[str, Tensor] = {}
        for name in names:
            weight = weight_of(model.get_submodule(name))
            full = gather_to_owner(weight, owners[name]) if isinstance(weight, DTensor) else weight
            if rank == owners[name]:
                assert full is not None
                scores[name] = self.of_weight(name, full, by_neuron, seen).cpu()
        return scores

    def scores(self, seen: Any, data: SetData) -> Scored:
        """The formula of every layer."""
        return Scored(self.made(seen))

    def rows(self, name: str, layer: nn.Module, seen: Any) -> Tensor:
        """The formula of the rows that this rank holds."""
        return self.of_weight(name, own_rows(weight_of(layer))[0], False, seen)


class Magnitude(MadeOfWeights, Ranking):
    """|W|: the smallest go first, whatever the sets."""

    name = "magnitude"
    orders_weights = True

    def of_weight(self, name: str, weight: Tensor, by_neuron: bool, seen: Any) -> Tensor:
        """The magnitude."""
        return magnitude_scores(weight, by_neuron)

    def ranking(self) -> dict[str, Tensor]:
        """The magnitude of every layer."""
        return self.made()


class Random(Ranking, ScoresRows):
    """Uniform in [0, 1), seeded: a control."""

    name = "random"
    orders_weights = True

    @property
    def options(self) -> Options:
        """The seed with them."""
        return Options(**super().options, seed=self.scoring.seed)

    def ranking(self) -> Mapping[str, Tensor]:
        """A draw; of weights each rank draws its own share when it writes them."""
        scoring = self.scoring
        drawn = random_scores(score_shapes(scoring.model, scoring.names, scoring.by_neuron), scoring.seed)
        return of_rank_zero(drawn) if scoring.by_neuron else drawn

    def rows(self, name: str, layer: nn.Module, seen: Any) -> Tensor:
        """A draw of its own for each layer: then no rank draws all layers to mask one."""
        names, weight = self.scoring.names, weight_of(layer)
        seed = self.scoring.seed * len(names) + names.index(name)
        own, rows = own_rows(weight)
        return random_scores({name: tuple(weight.shape)}, seed)[name][rows].to(own.device)


def score_shapes(model: PreTrainedModel, names: Sequence[str], by_neuron: bool) -> dict[str, tuple[int, ...]]:
    """Shape of each layer's scores: (O,) or (O, I)."""
    return {name: tuple(weight_of(model.get_submodule(name)).shape[: 1 if by_neuron else 2]) for name in names}


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
