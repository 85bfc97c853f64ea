"""Circuits: after attribution, how much of the model does the task need?"""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.base import RunCallback, model_setting
from callbacks.baselines import BaselineCallback
from callbacks.evaluation import write_page
from callbacks.relevance import RelevanceCallback
from callbacks.score_writer import check_scores_are_whole
from sparc3_lightning.data.samples import ReferenceSamples, token_hash
from sparc3_lightning.data.tasks import tasks_of
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.task import TaskMeasure, batches_of, last_token_logits
from sparc3_lightning.files import write_json
from sparc3_lightning.metrics.measure import Measure
from sparc3_lightning.models.families import get_family
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import inform
from sparc3_lightning.pruning.circuits import Contest, Importance, Scope, keep_neurons
from sparc3_lightning.pruning.replacement import ABLATIONS, Ablation, Values, mean_outputs, means_of, twins, zeros
from sparc3_lightning.report.circuit_figures import write_circuit
from sparc3_lightning.report.terminal import print_experiment
from sparc3_lightning.scoring.registry import METHODS
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.scoring.weights import random_scores
from sparc3_lightning.trials import CONTROL, EMPTY, HELD_OUT, IN_SAMPLE, WHOLE
from sparc3_lightning.trials.circuit import (
    SHARES,
    Bits,
    Circuit,
    CircuitTrial,
    Whose,
    circuit_rows,
    kept_neurons,
    kept_weights,
    no_weights,
    overlap_rows,
    part_rows,
)
from sparc3_lightning.trials.circuit_areas import Resamples, Scenes, area_rows, end_rows, with_intervals
from sparc3_lightning.trials.store import TRIALS_DIR, TrialStore
from sparc3_lightning.trials.trial import UNCHANGED, Intervention, Trials, check_one_is_done, run_trials
from sparc3_lightning.version import package_versions

_FEW = 16  # samples: of fewer, a bootstrap draws too few different sets


class CircuitCallback(RunCallback):
    """Keeps the share of neurons or weights that each method scores highest, ablates the rest, asks the task.

    Every set under `data.behaviours` must be of a task (`IOI`, `TaskFile`). Sets that differ in `seed` alone are draws
    of one task, and make its bands; others are another task. Each circuit is asked the samples of its own draw and
    those of its task in `data.evaluation_task`. Writes `circuit/`.

    With `model.granularity: weight` all weights of the blocks' linear layers compete, and the rest is zeroed.

    List it after the relevance callback and the score writer and, for other methods, after the baseline callback.

    Args:
        shares: How much stays, above 0, at most 1; 1 is always asked. None for MIB's ten, 0.001 to 1.
        ablations: What takes the place of the neurons that go: "zero"; "mean", over the task's own samples: the first
            token's apart, others by place from the end; "corrupted", what they give in the sample's twin. None for
            "zero" alone, the only one of weights.
        scope: Where weights compete: "global" over all layers, or "row". Neurons compete over all layers.
        seed: Seed of the random circuits; each set has a draw of its own.
        described: The share whose circuits are told by layer and compared, between draws, tasks and methods.
    """

    after = (RelevanceCallback,)
    reads = ("evaluation_task",)

    def __init__(
        self,
        shares: list[float] | None = None,
        ablations: list[Ablation] | None = None,
        scope: Scope = "global",
        seed: int = 0,
        described: float = 0.02,
    ) -> None:
        self.shares = sorted({*(SHARES if shares is None else shares), 1.0})
        for option, values in (("shares", self.shares), ("described", [described])):
            if not all(0.0 < share <= 1.0 for share in values):
                raise ValueError(
                    f"`{option}` must lie above 0 and be at most 1, got {values}. Set "
                    f"`CircuitCallback.init_args.{option}`."
                )
        self.ablations: list[Ablation] = ["zero"] if ablations is None else ablations
        if not self.ablations or not set(self.ablations) <= set(ABLATIONS):
            raise ValueError(
                f"`ablations` must be of {ABLATIONS}, got {ablations}. Set `CircuitCallback.init_args.ablations`."
            )
        if scope not in ("global", "row"):
            raise ValueError(
                f"`scope` must be 'global' or 'row', got {scope!r}. Set `CircuitCallback.init_args.scope`."
            )
        self.scope: Scope = scope
        self.seed, self.described = seed, described
        self._is_done = False
        self._contests: dict[tuple[str, str], Contest] = {}

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse before hours of attribution what would fail after them."""
        check_scores_are_whole(trainer, module)
        self._check_data(module)
        if module.granularity == "weight" and self.ablations != ["zero"]:
            raise ValueError(
                f"`ablations` of weights can only be ['zero'], got {self.ablations}. Set "
                "`CircuitCallback.init_args.ablations`, or `model.granularity: neuron`."
            )
        self._layers(module)
        self._warn(trainer, module)
        rankings = 1 + sum(2 if key.endswith("_signed") else 1 for key in self._keys(module))
        num = len(module.data.behaviours) * len(self.ablations) * (rankings * len(self.shares) + 2)
        asked = " and those of `data.evaluation_task`" if module.data.task_samples else ""
        inform(trainer, f"circuits: {num:,} models, each asked its own samples{asked}")

    def _check_data(self, module: SparC3Module) -> None:
        data = module.data
        if not data.behaviours:
            raise ValueError("a circuit needs a task, got none. Set `data.behaviours` to IOI or TaskFile.")
        if not module.explains_next_token:
            raise ValueError(
                "a circuit of a task needs the contrast of each sample's two tokens explained, got "
                f"`target: {module.attribution_options['target']}`. Set `model.target: next_token`."
            )
        for name in data.behaviours:
            self._check_task(data.reference_samples[name], data.key_of(name))
        tasks = tasks_of(data.behaviours)
        for task, (key, held_out) in data.task_samples.items():
            self._check_task(held_out, key)
            own = [data.reference_samples[name] for name in tasks[task]]
            scored = {text for one in own for text in (*one.fingerprints, *one.groups)}
            num = max(sum(one in scored for one in names) for names in (held_out.fingerprints, held_out.groups))
            if num and not data.allow_overlap:
                raise ValueError(
                    f"`{key}` must hold no sample that scores are made of, and none of their templates, got {num} of "
                    f"{len(held_out)}. Set `part: evaluation` there and `part: attribution` in `data.behaviours`, or "
                    "`data.allow_overlap: true`."
                )

    def _warn(self, trainer: Trainer, module: SparC3Module) -> None:
        left_out = [key for key in module.run.scores if key not in (CONTROL, *self._keys(module))]
        if trainer.is_global_zero and self.is_before(trainer, BaselineCallback):
            warnings.warn(
                "circuits of other methods are not asked: `trainer.callbacks` lists `callbacks.BaselineCallback` after "
                "`callbacks.CircuitCallback`. List it before.",
                stacklevel=2,
            )
        if trainer.is_global_zero and left_out:
            warnings.warn(f"circuits of weights are not asked of methods that score neurons alone: {left_out}.",
                          stacklevel=2)  # fmt: skip
        data = module.data
        asked = {data.key_of(name): data.reference_samples[name] for name in data.behaviours}
        asked |= dict(data.task_samples.values())
        few = [f"{len(one)} of `{key}`" for key, one in asked.items() if len(one) < _FEW]
        if trainer.is_global_zero and few:
            warnings.warn(
                f"circuits are asked few samples ({', '.join(few)}): intervals over fewer than {_FEW} are too narrow. "
                "Set `init_args.num_samples` higher.",
                stacklevel=2,
            )

    def _keys(self, module: SparC3Module) -> list[str]:
        """The methods whose scores can make a circuit; the random one is this callback's own."""
        keys = [key for key in module.run.scores if key != CONTROL]
        if module.granularity == "neuron":
            return keys
        return [key for key in keys if not METHODS[key.removesuffix("_signed")].neurons_only]

    def _check_task(self, samples: ReferenceSamples, key: str) -> None:
        if not samples.targets or not samples.against:
            raise ValueError(
                f"`{key}` must name a right and a wrong token for each sample, got neither. Set it to IOI or TaskFile."
            )
        if "corrupted" in self.ablations and not samples.corrupted:
            raise ValueError(
                f"`ablations` with 'corrupted' needs a corrupted twin of each sample, got none of `{key}`. Give them, "
                "or leave 'corrupted' out of `CircuitCallback.init_args.ablations`."
            )

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Ask every circuit, write tables and figures."""
        run, planned = module.run, list[CircuitTrial]()
        with run.timed("circuits"):
            for number, (draw, task) in enumerate(_task_of(module).items()):
                found = list(self._planned(module, task, draw, number))
                for ablation in self.ablations:
                    trials = self._trials(module, task, draw, with_twins=ablation == "corrupted")
                    of_ablation = [one for one in found if one.ablation == ablation]
                    for one in of_ablation:
                        one.name = None if one.intervention is None else trials.name(one.intervention)
                    what = f"circuits of {draw}, {ablation}"
                    planned += run_trials(of_ablation, trials, CircuitTrial.keep, module.progress, what)
        check_one_is_done(planned, "circuits")

        def write() -> None:
            rows, circuits = circuit_rows(planned), self._described(module)
            run.circuit = rows
            parts, overlaps = part_rows(circuits, partial(_place, module)), overlap_rows(circuits)
            directory = module.log_dir / "circuit"
            resamples = Resamples(planned, _scenes(module), module.evaluator.paired_test)
            ends, areas = end_rows(planned, resamples), with_intervals(area_rows(rows), resamples)
            write_json(directory / "circuit.json", {**self._about(module), "ends": ends})
            write_circuit(rows, areas, parts, overlaps, directory)
            write_page(module)

        with run.timed("circuits"):
            from_rank_zero(write)
        self._is_done = True

    def _about(self, module: SparC3Module) -> dict[str, Any]:
        """What was asked of what, beside the tables."""
        run, data = module.run, module.data
        asked = {name: data.reference_samples[name] for name in data.behaviours}
        asked |= {key.removeprefix("data."): samples for key, samples in data.task_samples.values()}
        return {
            "base_model": run.base_model,
            "tasks": tasks_of(data.behaviours),
            "samples": {name: {**one.source, "token_hash": one.token_hash} for name, one in asked.items()},
            "options": {"shares": self.shares, "ablations": self.ablations, "scope": self.scope, "seed": self.seed,
                        "described": self.described, "granularity": module.granularity},
            "methods": self._keys(module),
            "versions": package_versions(),
        }  # fmt: skip

    def _described(self, module: SparC3Module) -> dict[Whose, Circuit]:
        """What stays at the share that is described; on rank 0, which has all scores."""
        return {
            Whose(task, draw, one.label): {name: Bits.of(kept) for name, kept in self._stays(module, draw, one)}
            for number, (draw, task) in enumerate(_task_of(module).items())
            for one in self._importances(module, draw, number)
        }

    def _stays(self, module: SparC3Module, draw: str, importance: Importance) -> Iterator[tuple[str, Tensor]]:
        if module.granularity == "weight":
            return self._contest(module, draw, importance).keep(self.described)
        family = get_family(module.lm.config.model_type)
        kept = keep_neurons(importance, self.described)
        return ((family.neuron_module(layer), stays) for layer, stays in kept.items())

    def show(self, module: SparC3Module, stage: str) -> None:
        """Print the tables."""
        if self._is_done:
            print_experiment("circuit", module.log_dir / "circuit")

    def _trials(self, module: SparC3Module, task: str, draw: str, with_twins: bool) -> Trials:
        """What asks a circuit: its own samples, and those that are held out of its task."""
        asked, own = {IN_SAMPLE: module.data.reference_samples[draw]}, module.evaluator
        if (held_out := module.data.task_samples.get(task)) is not None:
            asked[HELD_OUT] = held_out[1]
        measures: list[Measure] = [TaskMeasure(samples, name, with_twins) for name, samples in asked.items()]
        evaluator = Evaluator(measures=measures, batch_size=own.batch_size, max_tokens=own.max_tokens)
        evaluator.precision = own.precision
        store = TrialStore(Path(module.trials_dir or module.log_dir / TRIALS_DIR))
        return Trials(store, model_setting(module), module.lm, module.tokenizer, evaluator, None, None)

    def _planned(self, module: SparC3Module, task: str, draw: str, number: int) -> Iterator[CircuitTrial]:
        """Every circuit of a draw; the whole model and the empty circuit first."""
        for method, (share, really), ablation, done in self._interventions(module, draw, number):
            yield CircuitTrial(intervention=done, task=task, draw=draw, method=method, ablation=ablation, share=share,
                               share_kept=really)  # fmt: skip

    def _interventions(
        self, module: SparC3Module, draw: str, number: int
    ) -> Iterator[tuple[str, tuple[float, float], Ablation, Intervention]]:
        if module.granularity == "weight":
            yield from self._of_weights(module, draw, number)
            return
        # Rank 0 has the scores of neurons.
        chosen = from_rank_zero(partial(self._kept, module, draw, number))
        for ablation in self.ablations:
            values, made_of = self._values(module, draw, ablation)
            yield WHOLE, (1.0, 1.0), ablation, UNCHANGED
            for method, share, kept in chosen:
                stays = torch.cat(list(kept.values())).double().mean().item()
                done = UNCHANGED if share == 1.0 else kept_neurons(kept, ablation, values, made_of)
                yield method, (share, stays), ablation, done

    def _kept(self, module: SparC3Module, draw: str, number: int) -> list[tuple[str, float, dict[int, Tensor]]]:
        importances = self._importances(module, draw, number)
        nothing = keep_neurons(importances[0], 0.0)
        return [(EMPTY, 0.0, nothing), *(
            (one.label, share, keep_neurons(one, share)) for one in importances for share in self.shares
        )]  # fmt: skip

    def _values(self, module: SparC3Module, draw: str, ablation: Ablation) -> tuple[Values, str | None]:
        """What takes the place of the neurons that go, and what names it; None for zero."""
        if ablation == "zero":
            return zeros, None
        samples = module.data.reference_samples[draw]
        if ablation == "corrupted":
            return twins, token_hash(samples.corrupted)
        own = module.evaluator
        batches = [[samples.ids[place] for place in places]
                   for places in batches_of(samples.ids, own.batch_size, own.max_tokens)]  # fmt: skip
        with own.precision():
            means = mean_outputs(module.lm, batches, partial(last_token_logits, module.lm))
        return means_of(means), f"first token apart, {samples.token_hash}"

    def _of_weights(
        self, module: SparC3Module, draw: str, number: int
    ) -> Iterator[tuple[str, tuple[float, float], Ablation, Intervention]]:
        layers = self._layers(module)
        yield WHOLE, (1.0, 1.0), "zero", UNCHANGED
        yield EMPTY, (0.0, 0.0), "zero", no_weights(layers)
        for one in self._importances(module, draw, number):
            samples = f"draw {self.seed + number}" if one.label == CONTROL else (
                module.data.reference_samples[draw].token_hash
            )  # fmt: skip
            contest = self._contest(module, draw, one)
            for share in self.shares:
                done = UNCHANGED if share == 1.0 else kept_weights(contest, layers, share, samples)
                yield one.label, (share, contest.share_kept(share)), "zero", done

    def _contest(self, module: SparC3Module, draw: str, importance: Importance) -> Contest:
        """How a method's weights compete; one for the whole run, which reads all scores once for all shares."""
        shares = sorted({*self.shares, self.described})
        made = Contest(importance, list(self._layers(module)), self.scope, shares)
        return self._contests.setdefault((draw, importance.label), made)

    def _layers(self, module: SparC3Module) -> dict[str, Any]:
        """The linear layers whose weights compete: all of the blocks; none where neurons do.

        Raises:
            ValueError: Not all of what competes is scored.
        """
        family = get_family(module.lm.config.model_type)
        by_weight = module.granularity == "weight"
        layers: dict[str, Any] = family.block_linears(module.lm) if by_weight else {}
        needed = list(layers) or family.neuron_modules(module.lm)
        if left_out := [name for name in needed if name not in module.run.expected_modules]:
            raise ValueError(
                f"a circuit of {module.granularity}s needs scores of all of them, got none of {left_out[0]}. Set "
                f"`model.modules: {'all' if by_weight else 'neurons'}`."
            )
        return layers

    def _importances(self, module: SparC3Module, draw: str, number: int) -> list[Importance]:
        """What each method says matters to a task by a draw's scores, and a random draw."""
        found, some = list[Importance](), module.run.score_sets[draw]
        for key in self._keys(module):
            method = module.run.scores[key]
            found += importances_of(key, method.ranking, method.sets.get(draw))
        shapes = dict(sorted(some.shapes.items()))  # whatever order ranks have written them in
        drawn = ScoreSet(random_scores(shapes, self.seed + number), some.manifest)
        return [*found, Importance(CONTROL, drawn)]


def importances_of(key: str, ranking: ScoreSet | None, scores: ScoreSet | None) -> Sequence[Importance]:
    """What a method's scores say matters: signed ones by their value and by their magnitude.

    Args:
        key: The method's.
        ranking: Its one ranking, where it has no scores of a set; the lowest of a signed one are specific to the task.
        scores: Its scores of the task's samples.
    """
    if ranking is not None:
        is_specific = ranking.manifest.get("options", {}).get("sign") == "signed"
        return [Importance(key, ranking, "lowest" if is_specific else "highest")]
    if scores is None:
        return []
    by_value = Importance(key, scores)
    return [by_value, Importance(f"{key}, magnitude", scores, "magnitude")] if key.endswith("_signed") else [by_value]


def _scenes(module: SparC3Module) -> Scenes:
    """What each sample that circuits are asked is drawn with."""
    data, task_of = module.data, _task_of(module)
    own = {(draw, IN_SAMPLE): data.reference_samples[draw].scenes for draw in task_of}
    held_out = {task: samples.scenes for task, (_, samples) in data.task_samples.items()}
    return own | {(draw, HELD_OUT): held_out[task] for draw, task in task_of.items() if task in held_out}


def _task_of(module: SparC3Module) -> dict[str, str]:
    """The task of each set that scores are made of, in the order of these."""
    task_of = {draw: task for task, draws in tasks_of(module.data.behaviours).items() for draw in draws}
    return {draw: task_of[draw] for draw in module.data.behaviours}


def _place(module: SparC3Module, name: str) -> tuple[int, str]:
    """A module's layer, and its name in it."""
    place = get_family(module.lm.config.model_type).place_of(name)
    assert place is not None, "circuits are of the blocks' layers"
    return place[0], "neurons" if module.granularity == "neuron" else place[1]
