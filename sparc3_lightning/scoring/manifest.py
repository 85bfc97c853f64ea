"""The manifest of a ScoreSet: what was scored, on what, how, with what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from sparc3_lightning.files import file_sha256, read_json
from sparc3_lightning.version import package_versions

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"


class Options(TypedDict):
    """How scores were computed.

    Attributes:
        method: What scored, by its name in `scoring.registry.METHODS`: `lrp`, `wanda`, ...; the one word for it in
            manifests, recipes, configs and tables.
        sign: "abs" (no score is negative) or "signed".
        granularity: "neuron" or "weight".
        modules: Layers scored: "neurons", "all" or name patterns.
        variant: Rules of a gradient-based method, and
        target: What it explains, and
        explain: whether its "logit" or its "logprob"; sets of before that know logits alone.
        seed: Seed of `random`.
        sparsity: Share that `wanda_sequential` removed, block by block.
    """

    method: str
    sign: str
    granularity: str
    modules: str | list[str]
    variant: NotRequired[str]
    target: NotRequired[str]
    explain: NotRequired[str]
    seed: NotRequired[int]
    sparsity: NotRequired[float]


class SetData(TypedDict, total=False):
    """The reference set that scores are of; every field is optional for sets made by hand.

    Attributes:
        name: The set's; none where plain Python gave samples alone.
        token_hash: Hash of all token ids.
        num_samples: Samples.
        num_tokens: Their tokens.
        source: Where they come from and how they were chosen.
        sample_ids: Each sample's name, of its document or prompt.
        target_ids: Each sample's explained token; of relevance only.
        against_ids: Token that each of these is contrasted with, -1 for none; where there is any.
        divided_by: Total that the scores were divided by, where they are shares.
    """

    token_hash: str
    num_samples: int
    num_tokens: int
    name: str
    source: dict[str, Any]
    sample_ids: list[str]
    target_ids: list[int]
    against_ids: list[int]
    divided_by: float


class Manifest(TypedDict, total=False):
    """JSON beside the scores; every field is optional for sets made by hand.

    Attributes:
        format_version: Version of this format.
        kind: "scores" of one reference set; "differential"; or "ranking", scores that need no reference set. Of the
            last two the lowest go first.
        base_model: See `identity.base_model`.
        tokenizer_hash: See `identity.tokenizer_hash`.
        options: How the scores were computed.
        left_out: Layers asked for and left out, because they are tied to the input embedding.
        data: The reference set; a ranking has none.
        relevance_per_sample: Sum of all scores, in logits (nats with "logprob"); gradient-based methods only.
        dtype: Type of the scores.
        model_dtype: Type of the model's weights.
        inputs: Of a differential: name, token hash and number of samples of each set, and the weight and penalty.
        versions: Versions of the packages.
        files: Sha256 of each file beside the manifest.
    """

    format_version: int
    kind: str
    base_model: dict[str, Any]
    tokenizer_hash: str | None
    options: Options
    left_out: list[str]
    data: SetData
    relevance_per_sample: float
    dtype: str
    model_dtype: str
    inputs: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str]


def make_manifest(
    *,
    base_model: dict[str, Any],
    options: Options,
    left_out: Sequence[str],
    data: SetData | None,
    model_dtype: str,
    kind: str = "scores",
    relevance_per_sample: float | None = None,
    tokenizer_hash: str | None = None,
) -> Manifest:
    """The manifest of one reference set's scores, or of a ranking."""
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        kind=kind,
        base_model=base_model,
        tokenizer_hash=tokenizer_hash,
        options=options,
        left_out=list(left_out),
        dtype="float32",
        model_dtype=model_dtype,
        versions=package_versions(),
    )
    if data is not None:
        manifest["data"] = data
    if relevance_per_sample is not None:
        manifest["relevance_per_sample"] = relevance_per_sample
    return manifest


def read_manifest(directory: Path, check_files: bool = True) -> Manifest:
    """Read the manifest of a score directory, and check the files that it names.

    Args:
        directory: Which.
        check_files: Read them and compare their sha256; otherwise only that they are there.

    Raises:
        FileNotFoundError: No manifest, or a file that it names is missing.
        ValueError: Another format version; a truncated or changed file.
    """
    manifest: Manifest = read_json(directory / MANIFEST_FILE, "score manifest")
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found != FORMAT_VERSION or not manifest.get("files"):
        raise ValueError(
            f"{directory / MANIFEST_FILE} must be a score manifest of format_version {FORMAT_VERSION} that lists its "
            f"files, got format_version {found!r}. Score the reference set again with this version."
        )
    for name, expected in manifest["files"].items():
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise FileNotFoundError(f"{path} is missing, though {MANIFEST_FILE} names it.")
        if check_files and file_sha256(path) != expected:
            raise ValueError(
                f"{path} must have sha256 {expected}: it is truncated or was changed after it was written."
            )
    return manifest


def tensor_files(manifest: Manifest) -> list[str]:
    """Names of the files that hold the scores, sorted."""
    return sorted(name for name in manifest["files"] if name.endswith(".safetensors"))
