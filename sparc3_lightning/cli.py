"""LightningCLI for fit, validate, test and predict."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

import callbacks
import sparc3_lightning
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.files import write_json
from sparc3_lightning.messages import short_message
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.provenance import provenance
from sparc3_lightning.pruning.recipe import RECIPE_FILE


def check_same_checkout() -> None:
    """The two packages must come from one place: a mix of an installed and a checked-out one gives two of every class.

    Raises:
        ImportError: They do not.
    """
    homes = [Path(package.__path__[0]).resolve().parent for package in (sparc3_lightning, callbacks)]
    if homes[0] != homes[1]:
        raise ImportError(
            f"`callbacks` must come from the same checkout as `sparc3_lightning`, got {homes[1]} and {homes[0]}. "
            "Install this checkout with `pip install -e .`, or remove the other one."
        )


class _Parser(LightningArgumentParser):
    """Says what is wrong without a page of options first."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and end with status 2."""
        if not self.exit_on_error:
            # The parser of a class inside the config: the outer one adds which key and class, and ends.
            super().error(message, ex)
        prog = getattr(getattr(ex, "subcommand_parser", self), "prog", self.prog).replace(" [options]", "")
        print(f"{prog}: error: {short_message(message)}\nSee `{prog} --help`.", file=sys.stderr)
        raise SystemExit(2) from ex


class SaveRunCallback(SaveConfigCallback):
    """Saves the run's config, seed included, and beside it what the run was made with."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `provenance.json` and, before any work, Lightning's `config.yaml`."""
        # Every rank asks: Lightning broadcasts the directory. (`save_config` is called on rank 0 alone.)
        directory = Path(trainer.log_dir or trainer.default_root_dir)
        if stage == "predict":
            from_rank_zero(lambda: _refuse_used(directory))
        if trainer.is_global_zero and not self.already_saved:
            write_json(directory / "provenance.json", provenance(trainer.world_size))
        super().setup(trainer, pl_module, stage)


def _refuse_used(directory: Path) -> None:
    """One directory, one run: results of another would get this one's config, and the scores have no room."""
    used = [name for name in ("scores", RECIPE_FILE) if (directory / name).exists()]
    if used:
        raise FileExistsError(
            f"{directory} holds another run's {used[0]}. Set `trainer.logger` (each run then gets a directory of its "
            "own), or another `trainer.default_root_dir`."
        )


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
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        return trainer

    def predict(self, model: SparC3Module, **kwargs: Any) -> None:
        """Run predict without keeping every batch's output."""
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


def run(args: ArgsType = None, execute: bool = True) -> SparC3CLI:
    """Parse a config, build everything it names, and run it.

    Args:
        args: Command and options; None: the command line's.
        execute: False builds and does not run; then `args` has no command.
    """
    check_same_checkout()
    _quiet()
    programs = {name: {"prog": f"sparc3 {name}"} for name in SparC3CLI.subcommands()}
    return SparC3CLI(
        model_class=SparC3Module,
        datamodule_class=SparC3DataModule,
        parser_class=_Parser,
        save_config_callback=SaveRunCallback,
        save_config_kwargs={"overwrite": True, "save_to_log_dir": True},
        trainer_defaults={"use_distributed_sampler": False},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "sparc3"} | programs if execute else None,
        args=args,
        run=execute,
    )
