"""A trial: an intervention applied to a model, measured, undone; done once, read ever after."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.distributed.ranks import from_rank_zero, is_raised_by_all
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import json_sha256
from sparc3_lightning.loops import Counted, Progress
from sparc3_lightning.metrics.measure import TextPrompt
from sparc3_lightning.pruning.apply import apply_masks, apply_recipe
from sparc3_lightning.pruning.lower_blocks import LowerBlocks
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.weight_recipe import AnyRecipe
from sparc3_lightning.trials.store import FORMAT_VERSION, Measured, TrialStore
from sparc3_lightning.version import __version__


@dataclass(frozen=True)
class Intervention:
    """What is done to a model while it is measured.

    Attributes:
        key: All that decides what it does to a given model, as JSON values.
        apply: Does it, until the end of a `with` block. Every rank must call.
        first_block: The first block that it changes; 0 where any may be, None where none is.
    """

    key: Mapping[str, Any]
    apply: Callable[[PreTrainedModel], AbstractContextManager[object]]
    first_block: int | None = 0


UNCHANGED = Intervention({"kind": "none"}, nullcontext, first_block=None)
"""The baseline's."""


def scaled_neurons(recipe: Recipe, factor: float | None = None) -> Intervention:
    """A recipe's neurons are removed, or dampened; recipes of the same neurons and factors do the same.

    Args:
        recipe: Which.
        factor: What all their outputs are multiplied by, in place of the recipe's own factors; 0 removes them.
    """
    if factor is None and recipe.num_dampened:
        neurons, factors = zip(*sorted(zip(recipe.neurons, recipe.factors, strict=True)), strict=True)
        key: dict[str, Any] = {"kind": "neurons", "neurons": list(neurons), "factor": list(factors)}
    else:
        key = {"kind": "neurons", "neurons": sorted(recipe.neurons), "factor": factor or 0.0}
    apply = partial(apply_recipe, recipe=recipe, check_base=False, factor=factor)
    return Intervention(key, apply, recipe.first_block)


def removed(recipe: AnyRecipe) -> Intervention:
    """What a recipe removes is zeroed, and what it dampens is multiplied."""
    if isinstance(recipe, Recipe):
        return scaled_neurons(recipe)
    key = {"kind": recipe.what, "indices": recipe.sha256}
    return Intervention(key, partial(apply_recipe, recipe=recipe, check_base=False), recipe.first_block)


def masked_weights(made_by: Mapping[str, Any], masks: Callable[[], Iterable[tuple[str, Tensor]]]) -> Intervention:
    """Masked weights are zeroed.

    Args:
        made_by: What the masks follow from, as JSON: they are not made to find that a trial is done.
        masks: Makes them, one layer after the other; see `apply_masks`.
    """
    return Intervention({"kind": "weights", **made_by}, lambda model: apply_masks(model, masks()))


class Trials:
    """Measures one model under interventions, always by the same text and prompts, each once. Every rank must call.

    Args:
        store: Where trials are kept.
        identity: Of the model, and what it computes in, as JSON: weights, tokenizer, types, attention.
        model: The model.
        tokenizer: Its tokenizer.
        evaluator: What measures.
        rows: Rows of the text, or None.
        prompts: Prompts, or None.
    """

    def __init__(
        self,
        store: TrialStore,
        identity: Mapping[str, Any],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        evaluator: Evaluator,
        rows: Sequence[str] | None,
        prompts: Sequence[TextPrompt] | None,
    ) -> None:
        self.store, self.model, self.tokenizer = store, model, tokenizer
        self.evaluator, self.rows, self.prompts = evaluator, rows, prompts
        self._lower = LowerBlocks(model, int(evaluator.shared_gigabytes * 1e9))
        # The scorer reads the prompts for it: once is enough.
        setting = from_rank_zero(lambda: evaluator.setting(rows, prompts))
        self._rest = {
            "format_version": FORMAT_VERSION, "version": __version__, "model": dict(identity), "evaluator": setting,
        }  # fmt: skip

    def name(self, intervention: Intervention) -> str:
        """What the trial of this intervention is kept under: the sha256 of its key."""
        return json_sha256(self._key(intervention))

    def is_done(self, intervention: Intervention) -> bool:
        """Whether its trial lies in the store, as far as this rank sees."""
        return self.store.path(self.name(intervention)).is_file()

    def measure(
        self, intervention: Intervention, progress: Progress | None = None, to_follow: Sequence[Intervention] = ()
    ) -> Measured:
        """Read the trial, or apply, evaluate, undo and keep.

        Args:
            intervention: What is done to the model.
            progress: Wraps the evaluator's loops.
            to_follow: What is measured next: what its passes can begin from is kept meanwhile.
        """
        layers = {one.first_block for one in to_follow if one.first_block}
        around = partial(self._lower.around, changed=intervention.first_block, to_follow=layers)

        def run() -> Evaluation:
            with intervention.apply(self.model):
                return self.evaluator.evaluate(
                    self.model, self.tokenizer, self.rows, self.prompts, progress, around=around
                )

        return self.store.measure(self._key(intervention), run)

    def _key(self, intervention: Intervention) -> dict[str, Any]:
        return {**self._rest, "intervention": dict(intervention.key)}


@dataclass(kw_only=True)
class Trial:
    """One trial of many.

    Attributes:
        intervention: What is done; None where it could not be made.
        name: What it is kept under.
        error: Why it failed, or could not be made.
        is_reused: It was not measured by this trial: an earlier run did, or another trial with the same intervention.
    """

    intervention: Intervention | None = None
    name: str | None = None
    error: str | None = None
    is_reused: bool = False


T = TypeVar("T", bound=Trial)


def run_trials(
    planned: Sequence[T], trials: Trials, keep: Callable[[T, Evaluation], object], progress: Progress, what: str
) -> Iterator[T]:
    """Measure one after the other; each is given when it is done or has failed. Every rank must call.

    Args:
        planned: Which, the same on every rank.
        trials: Measures one. An error that all ranks raise together ends that trial; any other, and what the disk
            says, ends all.
        keep: Takes what it needs of a trial's evaluation; asked on every rank.
        progress: Bar over the trials.
        what: What the bar calls them.
    """
    failed: dict[str | None, str] = {}
    for trial in progress(Counted(planned, "models", len(planned)), len(planned), what):
        if trial.intervention is not None and (error := failed.get(trial.name)) is not None:
            trial.error, trial.is_reused = error, True
        elif trial.intervention is not None:
            try:
                measured = trials.measure(trial.intervention)
                trial.is_reused = measured.is_reused
                keep(trial, measured.evaluation)
            except OSError:
                raise  # a full disk would cost every other trial too
            except Exception as error:  # whatever it is, it must not take the others' hours with it
                if not is_raised_by_all(error):
                    raise  # the other ranks wait for this one, and end with it
                trial.error = failed[trial.name] = said(error)
        yield trial


def said(error: Exception) -> str:
    """An error in a table."""
    return f"{type(error).__name__}: {error}"


def check_one_is_done(planned: Sequence[Trial], what: str) -> None:
    """Refuse to end well where nothing was found out.

    Args:
        planned: The trials, run.
        what: What the message calls them.

    Raises:
        ValueError: Every one failed; says how the first did.
    """
    if all(trial.error is not None for trial in planned):
        raise ValueError(f"all {len(planned)} {what} failed, the first ({planned[0]}) with {planned[0].error}")
