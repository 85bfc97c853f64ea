"""Where a model's or a tokenizer's files are, which commit they are of, and what to tell when they cannot be used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, StrictDataclassError

_HELP = (
    "Either accept its licence on its hub page and log in (HF_TOKEN, or `hf auth login`), or copy it to a directory "
    "and set {key} to that directory; without a network, HF_HOME must name a cache that holds it."
)


@contextmanager
def one_line(what: str, name: str) -> Iterator[None]:
    """Whatever a library raises over a model or a tokenizer becomes one line with its reason.

    Args:
        what: "model" or "tokenizer".
        name: Hub id or directory.
    """
    try:
        yield
    except Exception as error:
        raise hub_error(what, name, error) from error


def hub_error(what: str, name: str, error: Exception) -> OSError:
    """What to tell of a model or tokenizer that cannot be loaded.

    Args:
        what: "model" or "tokenizer".
        name: Hub id or directory.
        error: What went wrong.
    """
    # A hub id has at most one slash.
    if Path(name).is_absolute() or name.startswith((".", "~")) or is_directory(name) or name.count("/") > 1:
        if isinstance(error, PermissionError):
            return PermissionError(
                f"the {what} {name!r} cannot be loaded: {error.filename or name} may not be read (permission denied). "
                f"Change its permissions, or set `model.{what}`."
            )
        if not is_directory(name):
            at = "" if Path(name).is_absolute() else f" (from {Path.cwd()})"
            return FileNotFoundError(
                f"the {what} {name!r} cannot be loaded: no such directory{at}. Set `model.{what}`."
            )
        return OSError(f"the {what} in {name!r} cannot be loaded: {reason(error)} Set `model.{what}`.")
    key = "`model.model`" if what == "model" else "`model.tokenizer` (`model.model`, where that one names both)"
    return OSError(f"the {what} {name!r} cannot be loaded: {reason(error)} {_HELP.format(key=key)}")


def reason(error: Exception) -> str:
    """The line of an error that says why, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, StrictDataclassError):
        said = lines[-1]  # what comes before only names the check
    elif lines and isinstance(error, (OSError, ValueError)):
        said = lines[0]
    else:
        said = ": ".join([type(error).__name__, *lines[:1]])
    return said if said.endswith((".", "!", "?")) else f"{said}."


def is_directory(name: str) -> bool:
    """Whether a name is that of a directory; one that may not be looked into is a directory too."""
    try:
        return Path(name).is_dir()
    except PermissionError:
        return True


def fetch(what: str, name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The directory that holds the files of a model or tokenizer, from the hub where it is not on this machine.

    Args:
        what: "model" or "tokenizer".
        name: Hub id or directory.
        revision: Commit, branch or tag on the hub.
        patterns: No more than these is fetched from a hub.

    Raises:
        OSError: It cannot be reached, is not there or may not be looked into; says what to do.
    """
    with one_line(what, name):
        if not is_directory(name):
            return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
        next(Path(name).iterdir(), None)  # one without permission looks empty to the libraries
        return Path(name)


def local_directory(name: str, revision: str | None, file: str) -> Path | None:
    """The directory of a model or tokenizer on this machine: its own, or its snapshot in the hub's cache; None without.

    Args:
        name: Hub id or directory.
        revision: Commit, branch or tag; None for the default branch.
        file: One that was fetched.
    """
    if is_directory(name):
        return Path(name)
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def commit_of(name: str, revision: str | None, file: str) -> str | None:
    """The commit that a revision was when it was fetched: the hub's cache names its snapshots by it.

    Args:
        name: Hub id; a directory has none.
        revision: Commit, branch or tag; None for the default branch.
        file: One that was fetched.
    """
    directory = local_directory(name, revision, file)
    return None if directory is None or is_directory(name) else directory.name


def identity_of(name: str, revision: str | None, commit: str | None) -> dict[str, Any]:
    """Name and revision for manifests and recipes: a branch or tag moves on, so its commit is kept beside it.

    Args:
        name: Hub id or directory.
        revision: What was asked for.
        commit: What that was, where it is known.

    Returns:
        `id`, `revision` (the commit) and, where a branch or tag was asked for, `ref`.
    """
    if is_directory(name):
        return {"id": name, "revision": None}
    named = {"ref": revision} if commit is not None and revision not in (None, commit) else {}
    return {"id": name, "revision": commit or revision, **named}
