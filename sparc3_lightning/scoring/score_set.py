"""ScoreSet: the scores of one reference set, what they are scores of, and the files of its directory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sparc3_lightning.files import file_sha256, fsync, new_directory, write_json
from sparc3_lightning.scoring.lazy import (
    LazyScores,
    Summary,
    check_scores,
    check_summary,
    stored_scores,
    summaries,
    summarise,
)
from sparc3_lightning.scoring.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, read_manifest, tensor_files

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


class ScoreSet:
    """Mean relevance over one reference set, or the differential of several.

    Attributes:
        scores: From module name to float32 tensor, (O,) for neurons or (O, I) for weights; `LazyScores` stay lazy.
        manifest: What they are scores of; empty for a set made by hand.
    """

    def __init__(self, scores: Mapping[str, Tensor], manifest: Manifest | None = None) -> None:
        self.scores: Mapping[str, Tensor] = (
            scores
            if isinstance(scores, LazyScores)
            else {name: score.detach().to("cpu", torch.float32) for name, score in scores.items()}
        )
        self.manifest: Manifest = manifest if manifest is not None else Manifest()

    def __repr__(self) -> str:
        kind = self.manifest.get("kind", "made by hand")
        return f"ScoreSet({len(self.scores)} modules, {self.num_scores} scores, {kind})"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each module's scores; nothing is read."""
        if isinstance(self.scores, LazyScores):
            return self.scores.shapes
        return {name: tuple(score.shape) for name, score in self.scores.items()}

    def summary(self, name: str) -> Summary:
        """What there is to know of a module's scores; lazy ones are made only if they never were."""
        scores = self.scores
        return scores.summary(name) if isinstance(scores, LazyScores) else summarise(scores[name])

    @property
    def num_scores(self) -> int:
        """How many scores there are; nothing is read."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def total(self) -> float:
        """Sum of all scores: the relevance per sample, in logits."""
        return sum(summary.total for summary in summaries(self.scores).values())

    def save(self, directory: str | Path, max_shard_size: str | int = "5GB") -> Path:
        """Write safetensors files (with an index above `max_shard_size`) and manifest.json, all or nothing.

        Raises:
            ValueError: NaN or Inf, or negative scores where the sign is "abs".
            FileExistsError: The directory holds something already.
        """
        if not self.scores:
            raise ValueError("`scores` must hold at least one module, got none.")
        directory = Path(directory)
        with new_directory(directory) as temporary:
            groups = plan_files(self.shapes, max_shard_size)
            write_index_and_manifest(temporary, self.manifest, self.write_files(temporary, groups, 0, len(groups)))
        return directory

    def write_files(self, directory: Path, groups: Sequence[Sequence[str]], first: int, num: int) -> list[ScoreFile]:
        """Write some of the files of a score directory, one group of modules each, and check what they get.

        Args:
            directory: Where; it is there already.
            groups: Module names of each file.
            first: Number of the first file, from 0.
            num: Number of files that the directory will hold.

        Raises:
            ValueError: NaN or Inf, or negative scores where the sign is "abs".
            OSError: A file cannot be written.
        """
        files = []
        for number, names in enumerate(groups, start=first):
            scores = {name: self.scores[name] for name in names}
            check_scores(self.scores.only(names) if isinstance(self.scores, LazyScores) else scores, self._sign)
            files.append(write_file(directory, number, num, scores))
        return files

    def reopened(self, directory: Path) -> "ScoreSet":
        """The set to go on with once it is written: a lazy one reads what it made from there, any other is itself."""
        if not isinstance(self.scores, LazyScores):
            return self
        return ScoreSet.open(directory, check_files=False, known=self.scores.known)

    @property
    def _sign(self) -> str | None:
        # A differential of abs scores is negative where it matters.
        is_reference = self.manifest.get("kind") == "scores"
        return self.manifest["options"]["sign"] if is_reference and "options" in self.manifest else None

    @classmethod
    def load(cls, directory: str | Path) -> "ScoreSet":
        """Read a directory that `save` wrote.

        Raises:
            FileNotFoundError: No manifest, or a file that it names is missing.
            ValueError: Another format version; a truncated or changed file; NaN or Inf.
        """
        stored = cls.open(directory)
        return cls(dict(stored.scores), stored.manifest)

    @classmethod
    def open(
        cls, directory: str | Path, check_files: bool = True, known: Mapping[str, Summary] | None = None
    ) -> "ScoreSet":
        """Like `load`, for scores larger than memory: each module is read, and checked, whenever it is asked for.

        Args:
            directory: A directory that `save` wrote.
            check_files: Compare the files with their sha256.
            known: What is known of modules that were seen before.

        Raises:
            FileNotFoundError: No manifest, or a file that it names is missing.
            ValueError: Another format version; a truncated or changed file; later, NaN or Inf.
        """
        directory = Path(directory)
        manifest = read_manifest(directory, check_files)
        check = partial(check_summary, sign=cls({}, manifest)._sign)
        scores = stored_scores(directory, tensor_files(manifest), check, known)
        if not scores:
            raise ValueError(f"{directory} must hold the scores of at least one module, got none.")
        return cls(scores, manifest)
