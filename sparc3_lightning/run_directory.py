"""A run's directory: inside the log root, and for one run at a time."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from lightning.pytorch.loggers import Logger

from sparc3_lightning.distributed.state import FOLDER, is_unfinished
from sparc3_lightning.pruning.recipe import RECIPE_FILE


def check_loggers(loggers: Sequence[Logger]) -> None:
    """Refuse names of runs that lead out of the log root.

    Raises:
        ValueError: A logger's name, version or sub-directory is absolute or holds `..`.
    """
    for logger in loggers:
        for key in ("name", "version", "sub_dir"):
            # `version` itself looks for the next number, on a disk that may not be there yet.
            part = getattr(logger, f"_{key}", None)
            path = PurePath(os.path.expandvars(str(part or "")))
            if path.is_absolute() or ".." in path.parts or str(path).startswith("~"):
                raise ValueError(
                    f"`{key}` of the logger must stay inside its `save_dir`, got {str(part)!r}. "
                    f"Set `trainer.logger.init_args.{key}` without `..`, and `save_dir` to where runs shall be."
                )


def refuse_used(directory: Path, resumes: bool) -> None:
    """One directory, one run: results of another would get this one's config, and the scores have no room.

    Args:
        directory: The run's directory.
        resumes: Whether this run may go on in an unfinished one's.

    Raises:
        FileExistsError: The directory holds another run's results.
    """
    used = [name for name in ("scores", RECIPE_FILE, FOLDER) if (directory / name).exists()]
    if used and not (resumes and is_unfinished(directory)):
        raise FileExistsError(
            f"{directory} holds another run's {used[0]}. Set `trainer.logger` (each run then gets a directory of its "
            "own), or another `trainer.default_root_dir`."
        )
