"""Evaluation: before, after, and the control of random neurons, on the same prompts with the same noise."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import rich
from lightning.pytorch import LightningModule, Trainer

from callbacks.base import RunCallback, model_setting, module_of
from callbacks.pruning import PruningCallback
from callbacks.score_writer import check_scores_are_whole
from sparc3_lightning.distributed.ranks import from_rank_zero, raise_together
from sparc3_lightning.evaluation.passes import describe_passes
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import write_json
from sparc3_lightning.loops import duration
from sparc3_lightning.models.families import get_family
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import announce, inform
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.read import finished_run
from sparc3_lightning.report.sections import RESULTS_FILE
from sparc3_lightning.report.terminal import print_places, print_summary
from sparc3_lightning.runs.results import experiment_results, with_behaviours
from sparc3_lightning.runs.run import Run
from sparc3_lightning.trials.behaviours import RECIPES_FILE, write_rows
from sparc3_lightning.trials.store import TRIALS_DIR, TrialStore
from sparc3_lightning.trials.suppress import draw_controls
from sparc3_lightning.trials.trial import UNCHANGED, Intervention, Trials, removed


class EvaluationCallback(RunCallback):
    """Evaluates the baseline, the pruned model and the control; writes the results files, the figures and the page.

    List it after the pruning callback. In `test`, it writes the evaluation of the model tested.

    Args:
        num_control_draws: How often as many random neurons of the same layers (or, for the weights of each row, as many
            of another random row) are removed instead; 0 leaves it out.
        control_seed: Seed of the first draw; draw i uses seed + i.
    """

    after = (PruningCallback,)
    because = "an evaluation needs neurons to remove: "
    reads = ("evaluation_prompts", "evaluation_text")

    def __init__(self, num_control_draws: int = 5, control_seed: int = 0) -> None:
        if num_control_draws < 0:
            raise ValueError(
                f"`num_control_draws` must be at least 0, got {num_control_draws}. "
                "Set `EvaluationCallback.init_args.num_control_draws`."
            )
        self.num_control_draws, self.control_seed = num_control_draws, control_seed

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse before hours of attribution what would fail after them: order, paths, columns, token ids."""
        check_scores_are_whole(trainer, module)
        prompts, rows = module.data.prompts, module.data.text_rows
        if not prompts and not rows:
            raise ValueError(
                "an evaluation needs prompts or a text, got neither. Set `data.evaluation_prompts` or "
                "`data.evaluation_text`, or leave the evaluation callback out."
            )
        passes = module.evaluator.check(module.lm, module.tokenizer, rows, prompts)
        for measure in module.evaluator.measures:
            texts = measure.fingerprints(module.lm, module.tokenizer)  # every rank must call
            if trainer.is_global_zero:
                module.data.warn_of_attributed(type(measure).__name__, texts)
        num, recipes = self.num_control_draws, max(1, len(module.run.aims))
        pruned = "pruned" if recipes == 1 else f"{recipes} times pruned"
        controls = f"{recipes * num} control{'s' * (recipes * num > 1)}"
        which = f"baseline, {pruned}" + (f", {controls}" if num else "")
        inform(trainer, describe_passes(passes, 1 + recipes * (1 + num), which))

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Evaluate before, after and the control; write the results and what shows them."""
        run, log_dir = module.run, module.log_dir
        # Drawn first: that a layer has too few other neurons shows before hours of evaluation.
        recipes = [(one, directory, self._interventions(module, one)) for one, directory in run.by_recipe(log_dir)]
        to_do = [one for _, _, of_recipe in recipes for one in of_recipe]
        trials = trials_of(module)
        _foretell(module, trials, [UNCHANGED, *to_do] if run.baseline is None else to_do)
        _save(log_dir, "baseline_eval.json", baseline_of(module, to_do, trials).to_json())
        for one, directory, of_recipe in recipes:
            one.baseline, to_do = run.baseline, to_do[len(of_recipe) :]
            self._evaluate(module, trials, one, directory, [of_recipe, to_do])
        if run.parts:
            run.adopt_first()
            _save_pruned(run, log_dir)
            _save_controls(run, log_dir)
        from_rank_zero(partial(_report, module))

    def _interventions(self, module: SparC3Module, one: Run) -> list[Intervention]:
        """What is done to the model for a recipe: what it names goes, or as many others."""
        assert one.recipe is not None, "the pruning callback comes first"
        config = module.lm.config
        width = get_family(config.model_type).num_neurons(config)
        controls = draw_controls(one.recipe, width, self.num_control_draws, self.control_seed)
        return [removed(recipe) for recipe in (one.recipe, *controls)]

    def _evaluate(
        self, module: SparC3Module, trials: Trials, one: Run, directory: Path, to_do: Sequence[Sequence[Intervention]]
    ) -> None:
        """Measure the model without what goes, and each control: the first of `to_do`; the rest is later's."""
        (pruned, *controls), later = to_do
        named = "" if one.aim is None else f" {one.aim.name}"
        one.pruned = _measure(module, trials, pruned, f"pruned{named}", [*controls, *later])
        _save_pruned(one, directory)
        for number, control in enumerate(controls, start=1):
            to_follow = [*controls[number:], *later]
            one.controls.append(_measure(module, trials, control, f"control {number}{named}", to_follow))
        _save_controls(one, directory)

    def show(self, module: SparC3Module, stage: str) -> None:
        """Print the summary."""
        run, log_dir = module.run, module.log_dir
        if run.results:
            print_summary(run.results, log_dir)
        elif stage == "test" and (run.baseline or run.pruned):
            print_places(log_dir, rich.get_console())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the evaluation that `test` has made."""
        module = module_of(pl_module)
        for name, evaluation in (("baseline", module.run.baseline), ("pruned", module.run.pruned)):
            if evaluation is not None:
                _save(module.log_dir, f"{name}_eval.json", evaluation.to_json())


def write_page(module: SparC3Module) -> None:
    """Write the run's page with all that it has found so far. Rank 0 calls."""
    run, log_dir = module.run, module.log_dir
    announce(module.trainer, "drawing the figures and writing the page")
    write_report(log_dir, run=finished_run(run, log_dir) if run.results else None)


def trials_of(module: SparC3Module, with_prompts: bool = True) -> Trials:
    """What measures the run's model under interventions, each once. Every rank must call.

    Args:
        module: The module of a predict run, its rules off.
        with_prompts: Measure completions of the evaluation prompts too, not the text alone.
    """
    store, data = TrialStore(Path(module.trials_dir or module.log_dir / TRIALS_DIR)), module.data
    prompts = data.prompts if with_prompts else None
    return Trials(store, model_setting(module), module.lm, module.tokenizer, module.evaluator, data.text_rows, prompts)


def baseline_of(
    module: SparC3Module, to_follow: Sequence[Intervention] = (), trials: Trials | None = None
) -> Evaluation:
    """The model as it is, measured once a run: by prompts too where any callback wants them. Every rank must call.

    Args:
        module: The module of a predict run, its rules off.
        to_follow: What is measured next by the same text and prompts: how long that takes is told.
        trials: What measures it, by prompts too; the same that measures what follows shares forward passes with it.
    """
    run = module.run
    if run.baseline is None:
        trials = trials or trials_of(module, "evaluation_prompts" in module.reads)
        run.baseline = _measure(module, trials, UNCHANGED, "baseline", to_follow)
    return run.baseline


def _measure(
    module: SparC3Module, trials: Trials, intervention: Intervention, what: str, to_follow: Sequence[Intervention]
) -> Evaluation:
    found = trials.measure(intervention, partial(module.progress, prefix=what), to_follow)
    stage, seconds = f"evaluation: {what.split()[0]}", module.run.seconds
    seconds[stage] = seconds.get(stage, 0.0) + found.seconds
    if not found.is_reused:
        _tell_rest(module, trials, what, found.seconds, to_follow)
    return found.evaluation


def _foretell(module: SparC3Module, trials: Trials, to_do: Sequence[Intervention]) -> None:
    """How long all models are going to take, before the first is measured."""
    num, data = from_rank_zero(lambda: sum(not trials.is_done(one) for one in to_do)), module.data
    if num:
        timed = partial(module.evaluator.seconds, module.lm, module.tokenizer, data.text_rows, data.prompts)
        # What one rank's batch is refused for is raised on all, which would otherwise wait for it.
        each = raise_together(timed, (ValueError, OSError), module.lm.device)
        several = f"{num} models, about {duration(each)} each, {duration(num * each)} in all"
        told = several if num > 1 else f"1 model, about {duration(each)}"
        inform(module.trainer, f"evaluation: {told} (by a first window and a few tokens; without the scorer)")


def _tell_rest(
    module: SparC3Module, trials: Trials, what: str, seconds: float, to_follow: Sequence[Intervention]
) -> None:
    """How long the other models are going to take, by the one just measured; at most once a minute."""
    num = from_rank_zero(lambda: sum(not trials.is_done(one) for one in to_follow))
    if num and (what == "baseline" or seconds >= 60):
        left = f"{num} more of this kind: about {duration(num * seconds)}"
        inform(module.trainer, f"evaluation: {what} took {duration(seconds)}, {left}")


def _report(module: SparC3Module) -> None:
    """Write results, figures and page: of each recipe, and of several side by side; on rank 0."""
    run, log_dir = module.run, module.log_dir
    for one, directory in run.by_recipe(log_dir):
        one.results = experiment_results(one, module.evaluator, module.data.describe())
        _write_report(module, one, directory)
    if run.parts:
        run.results = with_behaviours(run)
        write_rows(run.results["behaviours"]["recipes"], log_dir / RECIPES_FILE)
        _write_report(module, run, log_dir)


def _write_report(module: SparC3Module, one: Run, directory: Path) -> None:
    write_json(directory / RESULTS_FILE, one.results)
    of_recipe = "" if one.aim is None else f" of {one.aim.name}"
    announce(module.trainer, f"drawing the figures and writing the page{of_recipe}")
    write_report(directory, run=finished_run(one, directory))


def _save_pruned(one: Run, directory: Path) -> None:
    assert one.pruned is not None
    _save(directory, "pruned_eval.json", one.pruned.to_json())


def _save_controls(one: Run, directory: Path) -> None:
    _save(directory, "control_eval.json", [control.to_json() for control in one.controls])


def _save(log_dir: Path, name: str, content: object) -> None:
    from_rank_zero(lambda: write_json(log_dir / name, content))
