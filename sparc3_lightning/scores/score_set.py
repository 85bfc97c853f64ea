"""ScoreSet: the scores of one reference set, and what they are scores of."""

from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparc3_lightning.files import file_sha256, new_directory, write_json
from sparc3_lightning.scores.checks import check_scores
from sparc3_lightning.scores.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, read_manifest, tensor_files

_FILE_PATTERN = "scores{suffix}.safetensors"
_INDEX_FILE = "scores.safetensors.index.json"


def total_relevance(scores: Mapping[str, Tensor]) -> float:
    """Sum of all scores: the relevance per sample, in logits."""
    return sum(score.sum(dtype=torch.float64).item() for score in scores.values())


class ScoreSet:
    """Mean relevance over one reference set, or the differential of several.

    Attributes:
        scores: From module name to float32 tensor, (O,) for neurons or (O, I) for weights.
        manifest: What they are scores of; empty for a set made by hand.
    """

    def __init__(self, scores: Mapping[str, Tensor], manifest: Manifest | None = None) -> None:
        self.scores = {name: score.detach().to("cpu", torch.float32) for name, score in scores.items()}
        self.manifest: Manifest = manifest if manifest is not None else Manifest()

    def __repr__(self) -> str:
        kind = self.manifest.get("kind", "made by hand")
        numbers = sum(score.numel() for score in self.scores.values())
        return f"ScoreSet({len(self.scores)} modules, {numbers} scores, {kind})"

    @property
    def total(self) -> float:
        """Sum of all scores: the relevance per sample, in logits."""
        return total_relevance(self.scores)

    def save(self, directory: str | Path, max_shard_size: str | int = "5GB") -> Path:
        """Write safetensors files (with an index above `max_shard_size`) and manifest.json, all or nothing.

        Raises:
            ValueError: NaN or Inf, or negative scores where the sign is "abs".
            FileExistsError: The directory holds something already.
        """
        check_scores(self.scores, sign=self._sign)
        directory = Path(directory)
        with new_directory(directory) as temporary:
            save_torch_state_dict(
                _with_own_memory(self.scores), temporary, filename_pattern=_FILE_PATTERN, max_shard_size=max_shard_size
            )
            files = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
            manifest = Manifest(format_version=FORMAT_VERSION)
            manifest.update(self.manifest)
            manifest["files"] = files
            write_json(temporary / MANIFEST_FILE, manifest)
        return directory

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
        directory = Path(directory)
        manifest = read_manifest(directory)
        scores: dict[str, Tensor] = {}
        for file in tensor_files(manifest):
            try:
                scores.update(load_file(directory / file))
            except SafetensorError as error:
                raise ValueError(f"{directory / file} is no readable safetensors file: {error}.") from error
        loaded = cls(scores, manifest)
        check_scores(loaded.scores, sign=loaded._sign)
        return loaded


def _with_own_memory(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy what shares memory or is part of a larger tensor: huggingface_hub drops such tensors without a word."""
    seen: set[int] = set()
    result = {}
    for name, score in scores.items():
        memory = score.untyped_storage()
        is_own = memory.data_ptr() not in seen and memory.nbytes() == score.nbytes and score.is_contiguous()
        seen.add(memory.data_ptr())
        result[name] = score if is_own else score.clone(memory_format=torch.contiguous_format)
    return result
