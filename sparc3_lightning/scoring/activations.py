"""Methods made of a plain forward pass: input norms, mean and highest activations, over real tokens only."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import PADDING, Batch
from sparc3_lightning.distributed.ranks import gather_objects, world_size
from sparc3_lightning.lrp.linear import Sign
from sparc3_lightning.lrp.patch import frozen, pre_hook
from sparc3_lightning.models.families import get_family
from sparc3_lightning.scoring.manifest import Manifest, SetData
from sparc3_lightning.scoring.method import Method, Ranking, Scored, Scoring, check_every_sample, of_rank_zero
from sparc3_lightning.scoring.weights import MadeOfWeights


@dataclass
class SetStatistics:
    """What one pass over a reference set has seen; a layer's neurons stand under the name of its neuron module.

    Attributes:
        squared_norms: Sum over real tokens of each input squared, by module, (I,) float64.
        activation_sums: Sum over real tokens of each neuron's |activation|, (F,) float64.
        maxima: Each neuron's highest activation in each sample, (S, F); samples in no particular order.
        num_samples: Samples.
        num_tokens: Real tokens.
    """

    squared_norms: dict[str, Tensor] = field(default_factory=dict)
    activation_sums: dict[str, Tensor] = field(default_factory=dict)
    maxima: dict[str, Tensor] = field(default_factory=dict)
    num_samples: int = 0
    num_tokens: int = 0


class ForwardStatistics:
    """Collects statistics of a model's plain forward passes, inside a `with` block.

    A neuron's activation is the input of `down`, such as act(gate) * up: what pruning it takes away.

    Args:
        model: A causal language model of a known family, whole, replicated or sharded (FSDP2).
        inputs: Layers whose inputs are measured.
        activations: Whether the neurons' mean activations are, and
        maxima: Their highest in each sample.
    """

    def __init__(
        self, model: PreTrainedModel, inputs: Sequence[str] = (), activations: bool = False, maxima: bool = False
    ) -> None:
        self.model, self.inputs, self.activations, self.maxima = model, inputs, activations, maxima
        self.family = get_family(model.config.model_type)
        head = model.get_output_embeddings()
        self._logits_to_keep = 0 if any(model.get_submodule(name) is head for name in inputs) else 1
        self._found = SetStatistics()
        self._batches: dict[str, list[Tensor]] = {}
        self._seen: list[int] = []
        self._is_real = torch.empty(0)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(frozen(self.model))
            for name in self.inputs:
                stack.enter_context(pre_hook(self.model.get_submodule(name), partial(self._on_input, name)))
            blocks = self.family.block_modules(self.model) if self.activations or self.maxima else []
            for layer, block in enumerate(blocks):
                down = block.get_submodule(self.family.down)
                stack.enter_context(pre_hook(down, partial(self._on_neurons, self.family.neuron_module(layer))))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def step(self, batch: Batch) -> None:
        """One forward pass. Padding on the right, and padding samples do not count.

        Shape: batch as `data.batches.Batch`, on the model's device.
        """
        # No attention mask: with causal attention, padding on the right cannot reach a real token (trap 8). The head
        # sees every token only where its own inputs count.
        options = {"use_cache": False, "logits_to_keep": self._logits_to_keep}
        self.watch(batch, partial(self.model, input_ids=batch["input_ids"], **options))

    @torch.no_grad()
    def watch(self, batch: Batch, forward: Callable[[], object]) -> None:
        """Count a forward pass of a batch through those parts of the model whose statistics are collected.

        Args:
            batch: As in `step`.
            forward: Makes the pass.
        """
        ids, is_sample = batch["input_ids"], batch["indices"] != PADDING
        places = torch.arange(ids.shape[1], device=ids.device)
        self._is_real = (places < batch["lengths"].to(ids.device)[:, None]) & is_sample.to(ids.device)[:, None]
        forward()
        self._seen += batch["indices"][is_sample].tolist()
        self._found.num_tokens += int(batch["lengths"][is_sample].sum())

    def _on_input(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = self._real(args[0], 0.0)
        _add(self._found.squared_norms, name, x.square().sum((0, 1)))

    def _on_neurons(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.activations:
            _add(self._found.activation_sums, name, self._real(args[0], 0.0).abs().sum((0, 1)))
        if self.maxima:
            highest = self._real(args[0], -torch.inf).amax(1)
            self._batches.setdefault(name, []).append(highest[self._is_real.any(1)].cpu())

    def _real(self, x: Tensor, fill: float) -> Tensor:
        # A family's block may put the tokens of all samples in one row.
        x = x.reshape(*self._is_real.shape, -1).to(torch.promote_types(x.dtype, torch.float32))
        return torch.where(self._is_real[..., None], x, fill)

    def reduce(self, num_samples: int) -> SetStatistics:
        """The statistics of all ranks' samples, the same on every rank; a new set begins. Every rank must call.

        Raises:
            ValueError: Samples are missing or came twice.
        """
        check_every_sample(gather_objects(self._seen), num_samples)
        found, batches = self._found, self._batches
        self._found, self._batches, self._seen = SetStatistics(), {}, []
        for sums in (found.squared_norms, found.activation_sums):
            for total in sums.values():
                if world_size() > 1:
                    torch.distributed.all_reduce(total)
        found.maxima = {name: torch.cat(gather_objects(parts)) for name, parts in batches.items()}
        found.num_samples, found.num_tokens = num_samples, sum(gather_objects([found.num_tokens]))
        return found


def _add(sums: dict[str, Tensor], name: str, part: Tensor) -> None:
    # float64: then neither batches nor ranks show in the result.
    sums[name] = sums[name] + part.double() if name in sums else part.double()


class Activation(Method):
    """Mean |activation| of each neuron over the set's real tokens."""

    name = "activation"
    needs = frozenset({"activations"})
    neurons_only = True

    def scores(self, seen: SetStatistics, data: SetData) -> Scored:
        """The means."""
        means = {layer: total / seen.num_tokens for layer, total in seen.activation_sums.items()}
        return Scored(of_rank_zero(means))


class Wanda(MadeOfWeights):
    """|W| times the L2 norm of the input over all real tokens of the set."""

    name = "wanda"
    needs = frozenset({"inputs"})
    orders_weights = True

    def of_weight(self, name: str, weight: Tensor, by_neuron: bool, seen: SetStatistics) -> Tensor:
        """Wanda's scores."""
        return wanda_scores(weight, seen.squared_norms[name], by_neuron)


class WandaMean(MadeOfWeights):
    """The same with the mean over samples of the squared norm, as Wanda's code; within a row it orders as `wanda`."""

    name = "wanda_mean"
    needs = frozenset({"inputs"})

    def of_weight(self, name: str, weight: Tensor, by_neuron: bool, seen: SetStatistics) -> Tensor:
        """Wanda's scores of the mean."""
        return wanda_scores(weight, seen.squared_norms[name] / seen.num_samples, by_neuron)


class Auroc(Ranking):
    """0.5 - AUROC of the neuron's highest activation, behaviour against general: below 0 is specific to the behaviour.

    Source: Suau et al., ICML 2024 (AurA), Sec. 3.
    """

    name = "auroc"
    needs = frozenset({"maxima"})
    compares = neurons_only = True

    def __init__(self, scoring: Scoring, sign: str = "abs") -> None:
        super().__init__(scoring, sign)
        self._maxima: dict[str, dict[str, Tensor]] = {}
        self._data: dict[str, SetData] = {}

    @classmethod
    def sign_of(cls, sign: str) -> Sign:
        """Below and above 0."""
        return "signed"

    def scores(self, seen: SetStatistics, data: SetData) -> None:
        """Keep the highest activations: the ranking is made of all sets."""
        self._maxima[data["name"]], self._data[data["name"]] = seen.maxima, data

    def ranking(self) -> dict[str, Tensor]:
        """The behaviour's set against the general ones."""
        assert self.scoring.behaviour is not None
        behaviour, general = self._maxima[self.scoring.behaviour], [self._maxima[name] for name in self.scoring.general]
        ties = TIES.get(self.scoring.dtype, TIES_OF_HALVES)
        return of_rank_zero({
            name: 0.5 - auroc(behaviour[name], torch.cat([maxima[name] for maxima in general]), ties)
            for name in self.layers
        })  # fmt: skip

    def ranking_manifest(self) -> Manifest:
        """Below 0 means specific to the behaviour, as in a differential."""
        manifest = super().ranking_manifest()
        manifest["kind"] = "differential"
        manifest["inputs"] = {
            "general": [self._data[name] for name in self.scoring.general],
            "behaviour": self._data[str(self.scoring.behaviour)],
        }
        return manifest


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
