"""Circuits: the share of a model that a method says does a task stays, the rest is ablated; how well does it do it?"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparc3_lightning.distributed.owners import own_rows
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.pruning.apply import apply_masks
from sparc3_lightning.pruning.circuits import Contest, bits_sha256
from sparc3_lightning.pruning.replacement import Ablation, Values, replaced
from sparc3_lightning.statistics.p_values import overlap_of
from sparc3_lightning.trials import EMPTY, WHOLE
from sparc3_lightning.trials.trial import Intervention, Trial, masked_weights

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's."""
MEASURES = ("accuracy", "argmax_accuracy", "logit_difference")
Row = dict[str, Any]
Circuit = Mapping[str, "Bits"]
"""What stays, by module."""


class Whose(NamedTuple):
    """Which circuit it is: the task's, chosen by a method's scores of one draw of its samples."""

    task: str
    draw: str
    method: str


@dataclass(kw_only=True)
class CircuitTrial(Trial):
    """A circuit, and in the end how well it does the task.

    Attributes:
        task: Name of the task that it is to do.
        draw: Name of the set of its samples whose scores chose it.
        method: Label of the method; `EMPTY` or `WHOLE`.
        ablation: What takes the place of the rest.
        share: How much stays, 0 to 1.
        share_kept: How much really does: no row may be left without a weight, and nothing stays in part.
        figures: By what it was asked of (`in_sample`, `held_out`), the figures.
        differences: Likewise each sample's logit difference, (S,).
    """

    task: str
    draw: str
    method: str
    ablation: Ablation
    share: float
    share_kept: float
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    differences: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, evaluation: Evaluation) -> None:
        """Take what is needed of its evaluation."""
        self.figures = figures_of(evaluation)
        named = {asked: f"{asked}/logit_difference" for asked in self.figures}
        self.differences = {asked: evaluation.columns[name].by_row for asked, name in named.items()}

    def __str__(self) -> str:
        return f"{self.draw}, {self.method}, {self.ablation}, {self.share:.1%}"


def kept_neurons(kept: Mapping[int, Tensor], ablation: Ablation, values: Values, made_of: str | None) -> Intervention:
    """All neurons but those kept are replaced.

    Args:
        kept: See `replaced`.
        ablation: Names `values`.
        values: What takes the others' place.
        made_of: Names what the values are made of, and how; None for zero.
    """
    key = {"kind": "replacement", "kept": bits_sha256(kept), "ablation": ablation, "made_of": made_of}
    return Intervention(key, partial(replaced, kept=kept, values=values))


def kept_weights(contest: Contest, layers: Mapping[str, nn.Module], share: float, samples: str) -> Intervention:
    """All weights of the layers but the most important are zeroed.

    Args:
        contest: Says which stay.
        layers: Those that compete, by name.
        share: How much stays, one of the contest's.
        samples: Hash of the samples that the scores are of; a random draw's name.
    """
    importance = contest.importance
    made_by = {"stays": importance.label, "share": share, "scope": contest.scope, "samples": samples,
               "options": importance.scores.manifest.get("options")}  # fmt: skip
    return masked_weights(made_by, partial(contest.masks, layers, share))


def no_weights(layers: Mapping[str, nn.Module]) -> Intervention:
    """All weights of the layers are zeroed."""

    def masks() -> Iterable[tuple[str, Tensor]]:
        for name, layer in layers.items():
            weight, _ = own_rows(weight_of(layer))
            yield name, torch.ones_like(weight, dtype=torch.bool)

    return Intervention({"kind": "weights", "stays": "none"}, lambda model: apply_masks(model, masks()))


def figures_of(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """By what was asked, each measure's figure."""
    found: dict[str, dict[str, float]] = {}
    for name, column in evaluation.columns.items():
        asked, _, measure = name.partition("/")
        assert column.figure is not None
        found.setdefault(asked, {})[measure] = column.figure
    return found


@dataclass(frozen=True)
class Bits:
    """What stays of a module, a bit each: a circuit of weights is an eighth of their number in bytes.

    Attributes:
        packed: The bits, eight in a byte.
        num: How many they are.
    """

    packed: NDArray[np.uint8]
    num: int

    @staticmethod
    def of(kept: Tensor) -> "Bits":
        """Of a module's kept neurons or weights."""
        return Bits(np.packbits(kept.flatten().cpu().numpy()), kept.numel())

    @property
    def num_kept(self) -> int:
        """How many stay."""
        return int(np.bitwise_count(self.packed).sum(dtype=np.int64))

    def num_shared(self, other: "Bits") -> int:
        """How many stay in both."""
        return int(np.bitwise_count(self.packed & other.packed).sum(dtype=np.int64))


def part_rows(circuits: Mapping[Whose, Circuit], place: Callable[[str], tuple[int, str]]) -> list[Row]:
    """How much of each layer stays, by kind of layer; a row a circuit and module.

    Args:
        circuits: What stays of each module.
        place: A module's layer and kind.
    """
    rows = []
    for whose, circuit in circuits.items():
        for name, bits in circuit.items():
            layer, kind = place(name)
            counts = {"num_kept": bits.num_kept, "num": bits.num}
            rows.append({**whose._asdict(), "layer": layer, "kind": kind, **counts})
    return rows


def overlap_rows(circuits: Mapping[Whose, Circuit]) -> list[Row]:
    """How far two circuits agree: of one method on two `draws` of a task or on two `tasks`, or of two `methods`.

    A row says `of` which method's circuits of the draws `first` and `second` it is; or, where methods are compared, of
    which draw's circuits by the methods `first` and `second`. `task` and `other_task` differ only between tasks.
    """
    rows = []
    for (first, ours), (second, theirs) in combinations(circuits.items(), 2):
        if (first.draw == second.draw) == (first.method == second.method):
            continue
        of_draws = "draws" if first.task == second.task else "tasks"
        what = "methods" if first.draw == second.draw else of_draws
        pairs = [(bits, theirs[name]) for name, bits in ours.items()]
        ours_kept, theirs_kept = sum(a.num_kept for a, _ in pairs), sum(b.num_kept for _, b in pairs)
        found = overlap_of(ours_kept, theirs_kept, sum(a.num_shared(b) for a, b in pairs), sum(a.num for a, _ in pairs))
        named = (first.draw, first.method, second.method) if what == "methods" else (
            first.method, first.draw, second.draw
        )  # fmt: skip
        rows.append({"what": what, "task": first.task, "other_task": second.task,
                     **dict(zip(("of", "first", "second"), named, strict=True)), **vars(found)})  # fmt: skip
    return rows


def faithfulness(value: float, empty: float, full: float) -> float | None:
    """Where a circuit's figure lies between the empty circuit's (0) and the whole model's (1); None where these agree.

    Source: Mueller et al., ICML 2025 (MIB, arXiv 2504.13151), Sec. 3.
    """
    return (value - empty) / (full - empty) if full != empty else None


def circuit_rows(trials: Sequence[CircuitTrial]) -> list[Row]:
    """One row a circuit and what it was asked of, with its faithfulness by logit difference; None where one failed.

    Empty and whole circuits are among the trials, once a draw and ablation.
    """
    ends = {(one.draw, one.ablation, one.method): one.figures for one in trials if one.method in (EMPTY, WHOLE)}
    rows, all_asked = [], list(dict.fromkeys(asked for one in trials for asked in one.figures))
    for one in trials:
        for asked in all_asked:
            found = one.figures.get(asked, dict.fromkeys(MEASURES))
            row: Row = {"task": one.task, "draw": one.draw, "method": one.method, "ablation": one.ablation,
                        "share": one.share, "share_kept": one.share_kept, "asked": asked, **found,
                        "error": one.error}  # fmt: skip
            empty, full = (ends.get((one.draw, one.ablation, end), {}).get(asked) for end in (EMPTY, WHOLE))
            known = [one["logit_difference"] for one in (one.figures.get(asked), empty, full) if one]
            row["faithfulness"] = faithfulness(known[0], known[1], known[2]) if len(known) == 3 else None
            rows.append(row)
    return rows
