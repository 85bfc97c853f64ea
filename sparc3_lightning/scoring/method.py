"""What scores neurons or weights: an object that sees the batches of reference sets and gives their scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import Batch
from sparc3_lightning.distributed.ranks import is_rank_zero
from sparc3_lightning.lrp.attribution import Granularity
from sparc3_lightning.lrp.dispatch import Kernel
from sparc3_lightning.lrp.linear import Sign
from sparc3_lightning.lrp.modules import select_modules
from sparc3_lightning.lrp.rules import Variant
from sparc3_lightning.lrp.targets import Explain, Target
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.identity import base_model
from sparc3_lightning.scoring.manifest import Manifest, Options, SetData, make_manifest

Need = Literal["inputs", "activations", "maxima"]


@dataclass(kw_only=True)
class Scoring:
    """What the methods that score one model have in common.

    Args:
        model: A causal language model of a known family, whole, replicated or sharded (FSDP2); the rules are off.
        granularity: "neuron" or "weight".
        modules: Which layers; see `select_modules`. `activation`, `auroc` and `value_vectors` always score all
            neurons.
        target: What gradient-based methods explain.
        explain: Whether a target's "logit" or its "logprob" is explained; None for the target's own.
        kernel: What computes relevance; see `Attribution`.
        activation_checkpointing: Less memory for one more forward pass of the gradient-based methods.
        general: Names of the general sets, for methods that compare sets.
        behaviour: Name of the behaviour's set, for methods that compare sets.
        behaviour_targets: Token that follows each sample of the behaviour's set, for `value_vectors`.
        seed: Seed of `random`.
        sparsity: Share of each row that `wanda_sequential` removes.
        identity: The model's, where it is known already; see `identity.base_model`.
        tokenizer_hash: For the manifests.
        model_dtype: Type that the model computes in, where that is not the type its weights are stored in.

    Attributes:
        names: Layers that are scored, in the model's order.
        left_out: Layers asked for and left out because they are tied to the input embedding.

    Raises:
        ValueError: Layers that are not there.
    """

    model: PreTrainedModel
    granularity: Granularity = "neuron"
    modules: str | Sequence[str] = "neurons"
    target: str | int | Sequence[int] | Target = "last_token_argmax"
    explain: Explain | None = None
    kernel: Kernel = "auto"
    activation_checkpointing: bool = False
    general: Sequence[str] = ()
    behaviour: str | None = None
    behaviour_targets: Sequence[int] | None = None
    seed: int = 0
    sparsity: float = 0.5
    identity: dict[str, Any] | None = None
    tokenizer_hash: str | None = None
    model_dtype: torch.dtype | None = None
    names: list[str] = field(init=False)
    left_out: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """Find the layers."""
        self.names, self.left_out = select_modules(self.model, self.modules)

    @property
    def by_neuron(self) -> bool:
        """Whether a row gets one score."""
        return self.granularity == "neuron"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Type that the model computes in."""
        return self.model_dtype or self.model.dtype

    @cached_property
    def neurons(self) -> list[str]:
        """The layers whose rows are the neurons, one a block."""
        return get_family(self.model.config.model_type).neuron_modules(self.model)

    @cached_property
    def base(self) -> dict[str, Any]:
        """Which model it is; hashed unless it is known. Every rank must ask."""
        return self.identity or base_model(self.model)


@dataclass(frozen=True)
class Scored:
    """What a method has found of one reference set: this rank's part, of neurons all on rank 0.

    Attributes:
        scores: From module name to scores, in any floating type.
        target_ids: The token explained for each sample, where relevance was scored.
    """

    scores: Mapping[str, Tensor]
    target_ids: list[int] | None = None


class Pass(Protocol):
    """What sees the batches of one reference set at a time, inside a `with` block. Every rank must call all of it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def step(self, batch: Batch) -> object:
        """See a batch of this rank."""

    def reduce(self, num_samples: int) -> Any:
        """What all ranks have seen of a set of so many samples."""


class Method(ABC):
    """One way to score neurons or weights.

    A subclass either says what it needs of a plain forward pass, which all such methods share, or makes a pass of its
    own; or it is a `Ranking`. Scores of neurons are given on rank 0, those of weights are shared
    out over the ranks.

    Args:
        scoring: What all methods of the model have in common.
        sign: "abs" or "signed", of a gradient-based method.

    Attributes:
        name: The one word for it, in manifests, recipes, configs and tables.
        variant: Rules of a gradient-based method, which has a sign; None for the others.
        needs: What of the forward pass it is made of: "inputs" of the layers, "activations" of the neurons, or their
            "maxima" in each sample.
        compares: It must know which sets are general and which is the behaviour's.
        reads_targets: It must know what follows each sample of the behaviour's set.
        neurons_only: It scores neurons whatever the granularity.
        orders_weights: It gives the weights of a row an order of their own, by which a model can be compressed.
    """

    name: ClassVar[str]
    variant: ClassVar[Variant | None] = None
    needs: ClassVar[frozenset[Need]] = frozenset()
    compares: ClassVar[bool] = False
    reads_targets: ClassVar[bool] = False
    neurons_only: ClassVar[bool] = False
    orders_weights: ClassVar[bool] = False

    def __init__(self, scoring: Scoring, sign: str = "abs") -> None:
        self.scoring, self.sign = scoring, self.sign_of(sign)
        if self.compares and (scoring.behaviour is None or not scoring.general):
            raise ValueError(
                f"method {self.name!r} needs to know which sets are general and which is the behaviour's. Give "
                "`general` and `behaviour` (in a config, `data.general` and `data.behaviours`)."
            )
        self.check_targets(scoring.behaviour_targets)

    @classmethod
    def sign_of(cls, sign: str) -> Sign:
        """The sign that its scores have: what is asked for, where it has a choice."""
        return sign if cls.variant is not None else "abs"  # type: ignore[return-value] # an attribution refuses others

    @classmethod  # noqa: B027 - most score any model
    def check(cls, model: PreTrainedModel) -> None:
        """Refuse a model that it cannot score."""

    @classmethod
    def check_targets(cls, targets: Sequence[int] | None, key: str = "data.behaviours") -> None:
        """Refuse a behaviour whose samples nothing is known to follow, where the method reads what does.

        Args:
            targets: Token that follows each sample.
            key: Where a config names the behaviour.

        Raises:
            ValueError: There are none.
        """
        if cls.reads_targets and not targets:
            raise ValueError(
                f"method {cls.name!r} needs a behaviour's set whose samples a known token follows, got none. Set "
                f"`{key}` to WordsThatMatter, or `model.target: next_token`; from plain Python give "
                "`behaviour_targets`."
            )

    @property
    def options(self) -> Options:
        """How it scores, for the manifest."""
        modules = self.scoring.modules if isinstance(self.scoring.modules, str) else list(self.scoring.modules)
        if self.neurons_only:
            return Options(method=self.name, sign=self.sign, granularity="neuron", modules="neurons")
        return Options(method=self.name, sign=self.sign, granularity=self.scoring.granularity, modules=modules)

    @property
    def layers(self) -> Sequence[str]:
        """The layers that it scores."""
        return self.scoring.neurons if self.neurons_only else self.scoring.names

    def new_pass(self) -> Pass | None:
        """A pass of its own; None where the shared forward pass, or none, is enough."""
        return None

    @abstractmethod
    def scores(self, seen: Any, data: SetData) -> Scored | None:
        """The scores of one set.

        Args:
            seen: What the pass has found of it: `SetStatistics` of the shared one.
            data: What its manifest says of the set.

        Returns:
            None where it only keeps what it has seen for its ranking.
        """

    def manifest(self, kind: str, data: SetData | None = None, total: float | None = None) -> Manifest:
        """What its scores are scores of.

        Args:
            kind: "scores" or "ranking".
            data: The reference set.
            total: Sum of all ranks' scores, where they are relevance.
        """
        scoring = self.scoring
        return make_manifest(
            base_model=scoring.base,
            options=self.options,
            left_out=scoring.left_out,
            data=data,
            kind=kind,
            model_dtype=str(scoring.dtype).removeprefix("torch."),
            relevance_per_sample=total,
            tokenizer_hash=scoring.tokenizer_hash,
        )


class Ranking(Method):
    """A method that gives no score for each reference set but one ranking, in which the lowest go first."""

    def scores(self, seen: Any, data: SetData) -> Scored | None:
        """None: it looks at no set, unless it says otherwise."""
        return None

    @abstractmethod
    def ranking(self) -> Mapping[str, Tensor]:
        """Its one ranking, after it has seen every set that it looks at."""

    def ranking_manifest(self) -> Manifest:
        """What the ranking is one of."""
        return self.manifest("ranking")


class ScoresRows(ABC):
    """A method that can score the weights of a layer's rows alone, whatever else was scored."""

    @abstractmethod
    def rows(self, name: str, layer: nn.Module, seen: Any) -> Tensor:
        """Scores of the weights of a layer's rows that this rank holds.

        Args:
            name: The layer's name.
            layer: The layer.
            seen: What of the forward pass it needs.

        Shape: (O, I), or fewer rows.
        """


def of_rank_zero(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What every rank has made belongs to rank 0."""
    return dict(scores) if is_rank_zero() else {}


def check_every_sample(indices: Sequence[int], num_samples: int) -> None:
    """Refuse a set of which not every sample was attributed, once.

    Raises:
        ValueError: Samples are missing or came twice.
    """
    if sorted(indices) != list(range(num_samples)):
        raise ValueError(
            f"every one of {num_samples} samples must be attributed once, got {len(indices)} attributions of "
            f"{len(set(indices))} samples. Leave `trainer.limit_predict_batches` at 1.0 and `use_distributed_sampler` "
            "false."
        )
