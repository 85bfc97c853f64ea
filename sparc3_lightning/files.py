"""Writing whole artefacts: a temporary name first, then one rename, so that nothing is ever half written."""

import errno
import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from safetensors import SafetensorError


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Fill a directory under a temporary name beside `path`, then rename it; on an error it is removed.

    Raises:
        FileExistsError: `path` is there already and not empty.
        OSError: Something cannot be written; names `path`.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already and is not empty: remove it, or choose another directory.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                follow_umask(file)
            fsync(file)
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError):  # its own kind of what is an OSError everywhere else
            raise OSError(f"{path} cannot be written: {error}.") from error
        _say_where(error, path)
        raise


def follow_umask(file: Path) -> None:
    """Let those read and write a file who may its directory: safetensors makes one for its owner alone."""
    file.chmod(file.parent.stat().st_mode & 0o666)


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on the disk: what they replace may go only then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no fsync of a directory.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def _say_where(error: BaseException, path: Path) -> None:
    """A full disk does not say which file it was."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


def write_json(path: str | Path, content: Any) -> Path:
    """Write a JSON file so that no reader ever sees half of it, even after a power cut.

    Args:
        path: Where; its directory is made.
        content: JSON values; NaN and infinity are none.

    Returns:
        The path.

    Raises:
        ValueError: A number is not finite; nothing is written.
    """
    path = Path(path)
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True) + "\n"
    except ValueError as error:
        raise ValueError(f"{path} was not written: a figure in it is not finite ({error}).") from error
    return write_text(path, text)


def write_text(path: Path, text: str) -> Path:
    """Write a text file so that no reader ever sees half of it, even after a power cut.

    Args:
        path: Where; its directory is made.
        text: Written as UTF-8.

    Returns:
        The path.
    """
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file so that no reader ever sees half of it, even after a power cut.

    Args:
        path: Where; its directory is made.
        content: All of it.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _say_where(error, path)
        raise
    return path


def read_json(path: str | Path, what: str = "JSON file") -> Any:
    """Read a JSON file.

    Args:
        path: Which.
        what: What the messages call it.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is not JSON; names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no readable {what} ({error.msg}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no readable {what}: {error}.") from error


def load_yaml(text: str, place: str) -> Any:
    """Read a YAML text.

    Args:
        text: The text.
        place: What the messages call it.

    Raises:
        ValueError: As `check_yaml`; or a value is none of its type, such as a 13th month.
    """
    check_yaml(text, place)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{place}: no readable YAML ({str(error).splitlines()[0]}).") from error


def check_yaml(text: str, place: str) -> None:
    """Refuse what is no YAML, and a key that comes twice: the second would silently replace the first.

    Args:
        text: The text.
        place: What the messages call it.

    Raises:
        ValueError: It is one of these; names the line.
    """
    try:
        nodes, known = [yaml.compose(text, Loader=yaml.SafeLoader)], set()
    except yaml.YAMLError as error:
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        line = "" if mark is None else f", line {mark.line + 1}"
        raise ValueError(f"{place}{line}: no readable YAML ({problem or str(error).splitlines()[0]}).") from error
    while nodes:
        node = nodes.pop()
        if id(node) in known:  # an alias of what was seen
            continue
        known.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _check_keys([key for key, _ in node.value], place)
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def _check_keys(keys: list[yaml.Node], place: str) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key in keys:
        # "<<" is no key, and takes in another mapping, any number of times.
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            raise ValueError(
                f"{place}, line {line}: the key `{key.value}` comes a second time, after line {lines[name]}; only one "
                "could count. Remove or rename one."
            )
        lines[name] = line


def json_sha256(content: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Sha256 of content as JSON with sorted keys; `default` writes what JSON does not know."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=default).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def acquire(path: Path, blocking: bool = False) -> FileLock:
    """Lock a file, until it is released or this process ends, however it does; where locks are unknown, only warn.

    Args:
        path: The lock's file; its directory is there.
        blocking: Wait for another process that has it.

    Raises:
        filelock.Timeout: Another process has it.
    """
    # A soft lock, a file that is there, would outlive a killed process.
    lock = FileLock(path, blocking=blocking, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(poll_interval=0.5)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        warnings.warn(
            f"{path.parent} is on a file system without locks: start no command twice at the same time.", stacklevel=2
        )
    return lock


def release(lock: FileLock) -> None:
    """Let others in, and leave no file behind."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def check_visible(paths: Sequence[Path]) -> None:
    """Refuse a file system that each node has for itself.

    Raises:
        OSError: What another rank has made is not there.
    """
    for path in paths:
        if not path.exists():
            raise OSError(
                f"{path.parent} must lie on a file system that all ranks share: {path.name}, made by another rank, is "
                "not there. Set `trainer.logger.init_args.save_dir` (or `trainer.default_root_dir`)."
            )
