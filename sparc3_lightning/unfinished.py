"""The unfinished run in whose directory a predict run goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from sparc3_lightning.distributed.state import differences, is_unfinished
from sparc3_lightning.files import load_yaml, release
from sparc3_lightning.run_directory import CONFIG_FILE, lock

# What a config says of the stages after attribution, of other commands, and of how fast data is read.
_NOT_ATTRIBUTION = {
    "model": {"evaluator", "trials_dir", "recipe", "lr", "weight_decay", "betas", "warmup_steps"},
    "data": {
        "price", "evaluation_prompts", "evaluation_text", "train_text", "val_text", "train_batch_size", "block_length",
        "num_workers", "allow_overlap", "train_seed",
    },
}  # fmt: skip


def go_on_in_unfinished(trainer: Trainer, config: Mapping[str, Any]) -> tuple[Path | None, str]:
    """Lead the trainer to the newest unfinished run whose attribution is configured alike and which is not at work.

    Args:
        trainer: A trainer that has not started; its logger is given the run's version.
        config: This run's config.

    Returns:
        The run's directory, or None; and why the newest unfinished run is not it, empty where there is none.

    Raises:
        ValueError: The logger's version is fixed, and its directory's unfinished run is another one.
    """
    logger = trainer.logger
    if not isinstance(logger, (TensorBoardLogger, CSVLogger)) or logger._version is not None:
        directory = Path(
            getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None) or trainer.default_root_dir
        )
        why_not = _why_not(directory, config)
        if why_not:
            raise ValueError(f"{why_not}. Set another `trainer.logger`.")
        return (None if why_not is None else directory), ""
    reasons = []
    for version in _versions(Path(logger.root_dir)):
        logger._version = version
        why_not = _why_not(Path(logger.log_dir), config)
        if why_not == "":
            return Path(logger.log_dir), ""
        reasons += [why_not] if why_not else []
    logger._version = None
    return None, next(iter(reasons), "")


def _versions(root: Path) -> list[int]:
    """Numbers of the directories `version_N`, newest first."""
    names = [path.name.removeprefix("version_") for path in root.glob("version_*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _why_not(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Why the run cannot go on there: empty where it can, None where no unfinished run is there."""
    if not is_unfinished(directory):
        return None
    try:
        release(lock(directory))
    except BlockingIOError as error:
        return str(error)
    path = directory / CONFIG_FILE
    if not path.is_file():
        return f"{directory} is unfinished, but has no {CONFIG_FILE}"
    theirs = load_yaml(path.read_text(encoding="utf-8"), str(path))
    changed = differences(attribution_config(theirs), attribution_config(config))
    return changed and f"{directory} is unfinished, but {changed}"


def attribution_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says that decides scores.

    Where and on how many processes it runs is left to the fingerprint, which knows what `auto` has become.
    """
    chosen: dict[str, Any] = {
        room: {key: value for key, value in (config.get(room) or {}).items() if key not in left_out}
        for room, left_out in _NOT_ATTRIBUTION.items()
    }
    return {**chosen, "seed_everything": config.get("seed_everything")}
