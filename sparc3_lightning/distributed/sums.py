"""The sums of one rank as safetensors files."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparc3_lightning.files import file_sha256, follow_umask, fsync

# Largest file, in bytes: what saving takes of the host's memory.
_MAX_BYTES = 2**32


def write_sums(directory: Path, prefix: str, sums: Mapping[str, Tensor]) -> dict[str, str]:
    """Write sums down to the disk, as safetensors.

    Args:
        directory: Where; it is made.
        prefix: What the names of the files begin with.
        sums: From layer to sum, on any device.

    Returns:
        Sha256 of each file.

    Raises:
        OSError: A file cannot be written; names it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, group in enumerate(_groups(sums)):
        path = directory / f"{prefix}{number}.safetensors"
        # Copied: safetensors refuses tensors that share memory, as FSDP2's gradients do.
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in group.items()}
        try:
            save_file(copies, path)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}. The state saved before is as it was.") from error
        follow_umask(path)
        fsync(path)
        files[path.name] = file_sha256(path)
    fsync(directory)
    return files


def _groups(sums: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The sums in files of at most `_MAX_BYTES`, or of one tensor."""
    group: dict[str, Tensor] = {}
    for name, tensor in sums.items():
        if group and sum(other.nbytes for other in group.values()) + tensor.nbytes > _MAX_BYTES:
            yield group
            group = {}
        group[name] = tensor
    yield group


def read_sums(directory: Path, files: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Check all files, then give their sums one by one.

    Args:
        directory: Where they are.
        files: Sha256 of each.

    Raises:
        ValueError: A file is missing, truncated or was changed; names it.
    """
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise ValueError(f"{path} is missing, though the state names it.")
        if file_sha256(path) != expected:
            raise ValueError(f"{path} must have sha256 {expected}: it is truncated or was changed.")
    for name in files:
        with safe_open(directory / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                yield key, file.get_tensor(key)
