"""LightningCLI for fit, validate, test and predict."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

import callbacks
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.files import load_yaml, write_json, write_text
from sparc3_lightning.messages import did_you_mean, old_keys, short_message
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import lines_for_bar
from sparc3_lightning.runs.directory import (
    PROVENANCE_FILE,
    Claim,
    check_loggers,
    go_on_in_unfinished,
    provenance,
    refuse_used,
    standing_directories,
)
from sparc3_lightning.runs.signals import ended_by_sigterm
from sparc3_lightning.runs.slurm import check_tasks, slurm_environment


class _Parser(LightningArgumentParser):
    """Says what is wrong without a page of options first."""

    def parse_string(self, content: str, path: str | os.PathLike[str] = "", *args: Any, **kwargs: Any) -> Any:
        """Parse a config; what is no YAML, a key twice and an old key are named by file (and line)."""
        # jsonargparse stands in the file's directory, and gives its name alone.
        place = f"`--config`: {Path(path).absolute()}" if path else "`--config`"
        try:
            if instead := old_keys(load_yaml(content, place)):
                raise ValueError(f"{place} has keys of an earlier version. {instead}.")
        except ValueError as error:
            self.error(str(error), error)
        return super().parse_string(content, path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and end with status 2."""
        if not self.exit_on_error:
            # The parser of a class inside the config: the outer one adds which key and class, and ends.
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", self)
        prog = getattr(parser, "prog", self.prog).replace(" [options]", "")
        meant = did_you_mean(message, [action.dest for action in parser._actions])
        print(f"{prog}: error: {short_message(message)}{meant}\nSee `{prog} --help`.", file=sys.stderr)
        raise SystemExit(2) from ex


class SaveRunCallback(SaveConfigCallback):
    """Saves the run's config, seed included, and beside it what the run was made with; keeps other runs out."""

    _claim: Claim | None = None
    _directory: Path | None = None
    _is_started = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `provenance.json` and, before any work, Lightning's `config.yaml`."""
        # Every rank asks: Lightning broadcasts the directory. (`save_config` is called on rank 0 alone.)
        directory = self._directory = Path(trainer.log_dir or trainer.default_root_dir)
        resume = _resume_callback(trainer)

        def claim() -> None:
            if not self.already_saved:
                resumes = stage == "predict" and resume is not None and resume.resume != "never"
                refuse_used(directory, resumes)
            self._claim = self._claim or Claim(directory)

        from_rank_zero(claim)
        if trainer.is_global_zero and not self.already_saved:
            write_json(directory / PROVENANCE_FILE, provenance(trainer.world_size, directory))
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write Lightning's `config.yaml`, whole or not at all: a run that is killed here goes on by it."""
        assert self._directory is not None
        write_text(self._directory / self.config_filename, self.parser.dump(self.config, skip_none=False))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to lose."""
        self._is_started = True

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """From here on there is something to lose."""
        self._is_started = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let other runs in."""
        self._leave(Claim.release)

    def give_up(self, standing: set[Path]) -> None:
        """After an error: what never started leaves nothing behind. (`validate` and `test` write at their end.)

        Args:
            standing: Directories that were there before the run.
        """
        self._leave(Claim.release if self._is_started else partial(Claim.take_back, standing=standing))

    def _leave(self, how: Callable[[Claim], None]) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            how(claim)


def _resume_callback(trainer: Trainer) -> callbacks.ResumeCallback | None:
    listed = trainer.callbacks  # type: ignore[attr-defined] # Lightning sets it from elsewhere
    return next((callback for callback in listed if isinstance(callback, callbacks.ResumeCallback)), None)


def without_mps(accelerator: Any) -> Any:
    """The accelerator to build a trainer with, which is never Apple's GPU.

    Args:
        accelerator: `trainer.accelerator`; `auto` takes the CPU where it would take that GPU, and says so.

    Raises:
        ValueError: It asks for that GPU.
    """
    why = "MPS (Apple's GPU) is not supported: it has no float64, in which perplexity and statistics are summed"
    is_mac = MPSAccelerator.is_available() and not CUDAAccelerator.is_available()
    if isinstance(accelerator, MPSAccelerator) or accelerator == "mps" or (is_mac and accelerator == "gpu"):
        raise ValueError(f"{why}. Set `trainer.accelerator: cpu`, or add `--config configs/trainer/cpu.yaml`.")
    if is_mac and accelerator == "auto":
        print(f"{why}. This run takes the CPU, as `trainer.accelerator: cpu` does.", file=sys.stderr)
        return "cpu"
    return accelerator


class SparC3CLI(LightningCLI):
    """LightningCLI with what attribution needs, whatever a config says."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's own, without `return_predictions`: `test` must accept the saved config of a predict run."""
        commands = LightningCLI.subcommands()
        return {**commands, "predict": commands["predict"] | {"return_predictions"}}

    def before_instantiate_classes(self) -> None:
        """Attribution needs gradients: the config that is saved says so too (trap 3)."""
        if self.subcommand == "predict":
            self.config.predict.trainer.inference_mode = False

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; what one of them refuses is said without the rest of the config."""
        try:
            super().instantiate_classes()
            self.model.named_runs = [Path(path.absolute).parent for path in self._get(self.config, "config") or []]
        except ValueError as error:
            raise ValueError(short_message(str(error))) from error
        except MisconfigurationException as error:
            raise ValueError(
                f"the trainer cannot be built on this machine: {str(error).strip()} Set `trainer.accelerator`, "
                "`trainer.devices` and `trainer.strategy`, or add `--config` with another file of configs/trainer/ "
                "(such as cpu.yaml)."
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Force `inference_mode: false` for predict; a trainer default would lose to the config."""
        if self.subcommand == "predict":
            kwargs["inference_mode"] = False
        options = self._get(self.config_init, "trainer")
        kwargs["accelerator"] = without_mps(options["accelerator"])
        listed = options.get("callbacks") or []
        listed = listed if isinstance(listed, list) else [listed]
        kwargs["callbacks"] = [*listed, *lines_for_bar(listed, options["enable_progress_bar"] is not False)]
        plugins = options.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins) or TorchElasticEnvironment.detect()
        environment = None if chosen else slurm_environment(os.environ, os.isatty(0))
        if environment is not None:
            kwargs["plugins"] = [*plugins, environment]
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        if environment is not None:
            check_tasks(os.environ, trainer.num_devices, trainer.num_nodes)
        check_loggers(trainer.loggers)
        return trainer

    def before_predict(self) -> None:
        """Go on in the directory of an unfinished run that attributes the same."""
        resume = _resume_callback(self.trainer)
        if resume is None or resume.resume == "never" or not self.trainer.is_global_zero:
            return
        config = yaml.safe_load(self._parser("predict").dump(self.config.predict, skip_none=False))
        found, why_not = go_on_in_unfinished(self.trainer, config)
        if found is None and resume.resume == "must":
            raise ValueError(
                f"`resume` is 'must', and no unfinished run attributes the same: {why_not or 'there is none'}. Set "
                "`ResumeCallback.init_args.resume`."
            )
        if why_not:
            print(f"not resumed: {why_not}. A new run begins.", file=sys.stderr)

    def _run_subcommand(self, subcommand: str) -> None:
        root = Path(getattr(self.trainer.logger, "root_dir", None) or self.trainer.default_root_dir)
        standing = standing_directories(root)
        try:
            with nullcontext() if subcommand == "fit" else ended_by_sigterm():
                super()._run_subcommand(subcommand)
        except BaseException:
            # Not in a hook of the callback: Lightning closes the loggers, which write, after the last of them.
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined] # Lightning sets it from elsewhere
                if isinstance(callback, SaveRunCallback):
                    callback.give_up(standing)
            raise

    def predict(self, model: SparC3Module, **kwargs: Any) -> None:
        """Run predict without keeping every batch's output; signals are noted while the model is loaded too."""
        resume = _resume_callback(self.trainer)
        with resume.early_signals if resume is not None else nullcontext():
            self.trainer.predict(model, **{**kwargs, "return_predictions": False})

    def after_fit(self) -> None:
        """Save the trained model as a Hugging Face directory."""
        self.model.save_trained()


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def _quiet() -> None:
    """Leave out what Lightning says on every run and no user can act on."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)


def run(
    args: ArgsType = None,
    execute: bool = True,
    descriptions: Mapping[str, str] | None = None,
    kind: type[SparC3CLI] = SparC3CLI,
) -> SparC3CLI:
    """Parse a config, build everything it names, and run it.

    Args:
        args: Command and options; None: the command line's.
        execute: False builds and does not run; then `args` has no command.
        descriptions: What each command does, for its help.
        kind: What goes about it.
    """
    _quiet()
    programs = {name: {"prog": f"sparc3 {name}"} for name in SparC3CLI.subcommands()}
    for name, text in (descriptions or {}).items():
        programs[name]["description"] = (
            f"sparc3 {name}: {text}. Every key can also stand in a YAML (docs/configuration.md)."
        )
    return kind(
        model_class=SparC3Module,
        datamodule_class=SparC3DataModule,
        parser_class=_Parser,
        save_config_callback=SaveRunCallback,
        save_config_kwargs={"save_to_log_dir": False},  # by the callback's own hand
        trainer_defaults={"use_distributed_sampler": False},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "sparc3"} | programs if execute else None,
        args=args,
        run=execute,
    )
