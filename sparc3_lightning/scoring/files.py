"""The files of a score directory: safetensors with whole modules, an index where there are several, a manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sparc3_lightning.files import file_sha256, fsync, write_json
from sparc3_lightning.scoring.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest

INDEX_FILE = "scores.safetensors.index.json"


@dataclass(frozen=True)
class ScoreFile:
    """One safetensors file, as index and manifest name it."""

    name: str
    modules: list[str]
    num_bytes: int
    sha256: str


def plan_files(shapes: Mapping[str, Sequence[int]], max_shard_size: str | int) -> list[list[str]]:
    """Module names file by file: as many as fit into `max_shard_size`; a larger one has a file of its own."""
    if not shapes:
        return []
    empty = {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
    split = split_torch_state_dict_into_shards(empty, max_shard_size=max_shard_size)
    return list(split.filename_to_tensors.values())


def write_file(directory: Path, number: int, num_files: int, scores: Mapping[str, Tensor]) -> ScoreFile:
    """Write file `number` (from 0) of `num_files`.

    Raises:
        OSError: It cannot be written; names it.
    """
    suffix = "" if num_files == 1 else f"-{number + 1:05d}-of-{num_files:05d}"
    path = directory / f"scores{suffix}.safetensors"
    own = _with_own_memory(scores)
    try:
        save_file(own, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    fsync(path)  # by the rank that wrote it: the sums go when the directory is there
    return ScoreFile(path.name, list(own), sum(score.nbytes for score in own.values()), file_sha256(path))


def _with_own_memory(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy what shares memory or is part of a larger tensor, as in sets made by hand: safetensors refuses it."""
    seen: set[int] = set()
    result = {}
    for name, score in scores.items():
        memory = score.untyped_storage()
        is_own = memory.data_ptr() not in seen and memory.nbytes() == score.nbytes and score.is_contiguous()
        seen.add(memory.data_ptr())
        result[name] = score if is_own else score.clone(memory_format=torch.contiguous_format)
    return result


def write_index_and_manifest(directory: Path, manifest: Manifest, files: Sequence[ScoreFile]) -> None:
    """Write what makes a directory of score files a score directory."""
    hashes = {file.name: file.sha256 for file in files}
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(file.num_bytes for file in files)},
            "weight_map": {module: file.name for file in files for module in file.modules},
        }
        hashes[INDEX_FILE] = file_sha256(write_json(directory / INDEX_FILE, index))
    content = Manifest(format_version=FORMAT_VERSION)
    content.update(manifest)
    content["files"] = dict(sorted(hashes.items()))
    write_json(directory / MANIFEST_FILE, content)
