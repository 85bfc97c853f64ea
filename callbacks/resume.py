"""Resume: the state of a predict run is saved now and then, and the same command goes on from it."""

import sys
import time
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer

from callbacks.base import RunCallback, SetProgress, module_of
from callbacks.relevance import RelevanceCallback
from callbacks.score_writer import ScoreWriter
from sparc3_lightning.distributed.ranks import any_rank, from_rank_zero
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.runs.resume import State, StateFolder, fingerprint, forget_later_stages
from sparc3_lightning.runs.signals import EXIT_CODE, StopSignals, end_children
from sparc3_lightning.runs.unfinished import is_unfinished
from sparc3_lightning.scoring.saving import read_finished

Resume = Literal["auto", "never", "must"]


class ResumeCallback(RunCallback):
    """Saves what a predict run has summed, and goes on from there when the same command is run again.

    List it after the score writer. A run that is not finished has `resume/` in its directory: on each rank the sums of
    its samples (for weights under FSDP2 its shard), as large as the scores, written in float32. Scores that are written
    are read back, and so is what was measured (`trials/`): at most the trial in progress is lost. At SIGTERM, SIGUSR1
    and Ctrl-C all ranks save after the batch in progress and exit with code 75, "try again later"; a second Ctrl-C
    stops at once.

    Args:
        minutes: Time between two saves; None: no clock. A save stops the ranks for as long as writing takes.
        num_samples: Samples, of all ranks, between two saves; None: no count.
        resume: "auto": go on with the newest unfinished run that attributes the same, or else begin one and say why;
            "must": go on or refuse; "never": begin one.
    """

    after = (RelevanceCallback, ScoreWriter)
    _folder: StateFolder

    def __init__(self, minutes: float | None = 10.0, num_samples: int | None = None, resume: Resume = "auto") -> None:
        for name, value in (("minutes", minutes), ("num_samples", num_samples)):
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be above 0, got {value}. Set `ResumeCallback.init_args.{name}`.")
        self.minutes, self.num_samples, self.resume = minutes, num_samples, resume
        self.early_signals, self._signals = StopSignals(), StopSignals()  # the CLI enters the early ones
        self._saved_at, self._num_unsaved = 0.0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a directory that `resume` does not allow; let a long choice of prompts stop and go on."""
        module = module_of(pl_module)
        module.stop_signals = self.early_signals
        module.is_resumable = stage == "predict" and self.resume != "never"
        if stage != "predict":
            return
        log_dir = Path(trainer.log_dir or trainer.default_root_dir)
        is_there = from_rank_zero(lambda: is_unfinished(log_dir))
        if is_there != {"must": True, "never": False}.get(self.resume, is_there):
            raise ValueError(
                f"`resume` is {self.resume!r}, and {log_dir} holds {'an' if is_there else 'no'} unfinished run. Set "
                "`ResumeCallback.init_args.resume`."
            )

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """From here on a signal waits for the batch in progress."""
        self._signals.__enter__()
        # Lightning notes SIGTERM while data is read, and does nothing.
        self._signals.received = self.early_signals.received or ("SIGTERM" if trainer.received_sigterm else None)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on with what an interrupted run has left in the run's directory: nobody has refused this run."""
        module = module_of(pl_module)
        self._folder = StateFolder(module.log_dir, fingerprint(module), module.device)
        state = self._folder.begin()
        if state is not None:
            self._go_on(trainer, module, state)
        self._saved_at, self._num_unsaved = time.monotonic(), 0

    def _go_on(self, trainer: Trainer, module: SparC3Module, state: State) -> None:
        run, names = module.run, module.data.reference_names
        run.score_sets.update(read_finished(module.log_dir, self._folder.fingerprint, module.device))
        from_rank_zero(lambda: forget_later_stages(module.log_dir))
        finished = list(run.score_sets)
        run.seconds.update(state.seconds)
        run.num_done = {names.index(name): int(trainer.num_predict_batches[names.index(name)]) for name in finished}
        following, num_samples = next((name for name in names if name not in finished), None), 0
        if following is not None and following == state.set_name:
            relevance = module.attribution
            assert relevance is not None
            relevance.explained = self._folder.restore(state, relevance.attribution)
            run.num_done[names.index(following)] = state.num_batches
            num_samples = sum(map(len, state.explained))
        if trainer.is_global_zero:
            goes_on = f"{following} goes on after {num_samples} samples"
            then = goes_on if following else "what is made of them follows"
            print(f"resumed: {module.log_dir} has the scores of {', '.join(finished) or 'no set'}; {then}", flush=True)

    def after_batch(self, trainer: Trainer, module: SparC3Module, progress: SetProgress) -> None:
        """Save where a save is due, and after a set; stop where a signal has come."""
        self._num_unsaved += progress.num_samples * trainer.world_size
        stop, is_due = any_rank([self._signals.received is not None, self._is_due(trainer)], module.device)
        if progress.is_finished:
            self._folder.finish_set(module.run.seconds)
        elif stop or is_due:
            relevance = module.attribution
            assert relevance is not None
            state = State(self._folder.fingerprint, module.run.seconds, progress.name, progress.num_batches)
            self._folder.save(state, relevance.attribution, relevance.explained)
            self._saved_at, self._num_unsaved = time.monotonic(), 0
        if stop:
            raise SystemExit(EXIT_CODE)

    def _is_due(self, trainer: Trainer) -> bool:
        """Rank 0's clock counts."""
        by_clock = self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes
        by_count = self.num_samples is not None and self._num_unsaved >= self.num_samples
        return by_count or (by_clock and trainer.is_global_zero)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is nothing to save: a signal ends the run at once."""
        if self._signals.received is not None:
            raise SystemExit(EXIT_CODE)
        self._signals.at_once = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let signals do what they did; say how a run that was told to stop goes on."""
        self._signals.__exit__()
        received = self._signals.received or self.early_signals.received
        if received is None or not isinstance(exception, SystemExit):
            return
        end_children(trainer.strategy.launcher)
        if trainer.is_global_zero:
            how, log_dir = "in" if trainer.predicting else "with the responses in", module_of(pl_module).log_dir
            print(
                f"\nstopped by {received}: the same command goes on {how} {log_dir} (exit code {EXIT_CODE})",
                file=sys.stderr,
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The run is finished: it needs no state any more."""
        self._signals.__exit__()
        if stage == "predict":
            self._folder.remove()
