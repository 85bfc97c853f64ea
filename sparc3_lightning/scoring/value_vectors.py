"""Value vectors: neurons that write what makes the behaviour's words likely, read off the weights alone."""

from collections import Counter
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import normalize

from sparc3_lightning.data.tokens import check_vocabulary
from sparc3_lightning.distributed.owners import gather_to_owner
from sparc3_lightning.distributed.ranks import is_rank_zero
from sparc3_lightning.lrp.linear import Sign
from sparc3_lightning.models.families import Family, get_family
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.models.sharding import reshard
from sparc3_lightning.scoring.manifest import Manifest, SetData
from sparc3_lightning.scoring.method import Ranking, Scoring


class ValueVectors(Ranking):
    """Minus a neuron's promotion of the behaviour's words, see `promotion`: below 0 is specific to the behaviour.

    A word stands for its first token, the one that follows a sample; one that follows two samples counts twice. What
    norms do beside a scale of each token is folded in: their weights, and LayerNorm's mean. So a neuron's column of
    `down` (through the norm after it, where the family has one) is compared with what the last norm and lm_head read.
    LayerNorm's bias, Granite's multipliers and a cap of the logits do not change which tokens a column promotes.

    Source: Geva et al., EMNLP 2022 (arXiv 2203.14680), Sec. 2: a column's projection onto the vocabulary.
    """

    name = "value_vectors"
    neurons_only = reads_targets = True

    def __init__(self, scoring: Scoring, sign: str = "abs") -> None:
        super().__init__(scoring, sign)
        self._targets = [int(token) for token in scoring.behaviour_targets or ()]
        check_vocabulary(self._targets, scoring.model.config.vocab_size, "`behaviour_targets`")

    @classmethod
    def sign_of(cls, sign: str) -> Sign:
        """Below and above 0."""
        return "signed"

    @torch.no_grad()
    def ranking(self) -> dict[str, Tensor]:
        """One layer at a time, whole on rank 0 where it is sharded. Every rank must call."""
        model = self.scoring.model
        family = get_family(model.config.model_type)
        reshard(model)
        counts = Counter(self._targets)
        head = _whole(weight_of(model.get_output_embeddings()))
        read = _scale(family, family.last_norm(model))
        shares = torch.tensor(list(counts.values()), dtype=torch.float64) / counts.total()
        words = None if head is None or read is None else _seen(family, _precise(head[list(counts)]) * read)
        found = {}
        for name, block in zip(self.layers, family.block_modules(model), strict=True):
            columns = _whole(weight_of(block.get_submodule(family.down)))
            after = None if family.after_down is None else _scale(family, block.get_submodule(family.after_down))
            if is_rank_zero():
                assert columns is not None
                assert words is not None
                vectors = _precise(columns.t()) if after is None else _precise(columns.t()) * after
                found[name] = -promotion(_seen(family, vectors), words, shares).cpu()
        return found

    def ranking_manifest(self) -> Manifest:
        """Below 0 means specific to the behaviour, as in a differential."""
        manifest = self.manifest("differential")
        behaviour = SetData(num_samples=len(self._targets), target_ids=self._targets)
        manifest["inputs"] = {"behaviour": {"name": self.scoring.behaviour, **behaviour}}
        return manifest


def promotion(vectors: Tensor, words: Tensor, shares: Tensor) -> Tensor:
    """Mean over words of the cosine of each value vector with what reads the word.

    The cosine, not the product: a product grows with the length of a column, which tells how much a neuron writes while
    it is active, not what; and with the length of a row of lm_head, so that a few words would decide.

    Args:
        vectors: What each neuron writes.
        words: What reads each word.
        shares: Of the words, that sum to 1.

    Returns:
        Between -1 and 1; 0 for a neuron that writes nothing.

    Shape: vectors (F, D), words (W, D), shares (W,), result (F,).
    """
    mean = shares.to(words) @ normalize(words, dim=1)
    return normalize(vectors, dim=1) @ mean


def _seen(family: Family, vectors: Tensor) -> Tensor:
    """The part of directions that the last norm lets through: LayerNorm takes the mean away.

    Shape: (N, D).
    """
    return vectors - vectors.mean(1, keepdim=True) if family.norm == "layer_norm" else vectors


def _scale(family: Family, norm: nn.Module) -> Tensor | None:
    """What a norm multiplies each feature by, on rank 0; (D,)."""
    weight = _whole(cast(Tensor, norm.weight).detach())
    return None if weight is None else _precise(weight) + family.norm_offset


def _whole(weight: Tensor) -> Tensor | None:
    """A parameter; of a sharded one on rank 0 only. Every rank must call."""
    return gather_to_owner(weight, 0) if isinstance(weight, DTensor) else weight


def _precise(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
