"""ScoreSet on disk: whole or not at all, and never silently changed (method.md, trap 22)."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparc3_lightning import ScoreSet, attribute
from sparc3_lightning.scoring import score_set as room
from sparc3_lightning.scoring.manifest import Manifest
from tests.tiny import tiny_llama, tiny_samples

ABS = Manifest(
    kind="scores",
    options={"variant": "attnlrp", "target": "x", "sign": "abs", "granularity": "weight", "modules": "all"},
)


def some_scores() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.layers.0.mlp.up_proj": (6, 4), "model.layers.1.mlp.up_proj": (6, 4), "lm_head": (9,)}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def equal(first: ScoreSet, second: ScoreSet) -> bool:
    same_names = first.scores.keys() == second.scores.keys()
    return same_names and all(torch.equal(first.scores[name], second.scores[name]) for name in first.scores)


def test_round_trip(tmp_path: Path) -> None:
    scores = attribute(tiny_llama(), tiny_samples(), granularity="weight", modules="all")
    loaded = ScoreSet.load(scores.save(tmp_path / "deep" / "scores"))
    assert equal(loaded, scores)
    files = loaded.manifest.pop("files")
    assert loaded.manifest == scores.manifest
    assert sorted(files) == ["scores.safetensors"]
    assert sorted(path.name for path in (tmp_path / "deep" / "scores").iterdir()) == [
        "manifest.json",
        "scores.safetensors",
    ]


def test_set_made_by_hand(tmp_path: Path) -> None:
    by_hand = ScoreSet({"a": torch.ones(3, dtype=torch.float64), "b": -torch.ones(2).bfloat16()})
    assert {score.dtype for score in by_hand.scores.values()} == {torch.float32}
    assert equal(ScoreSet.load(by_hand.save(tmp_path / "scores")), by_hand)
    assert by_hand.total == 1.0
    assert "made by hand" in repr(by_hand)


def test_tensors_that_share_memory_are_all_kept(tmp_path: Path) -> None:
    # huggingface_hub drops what shares memory, without a word.
    whole = torch.arange(12.0).reshape(4, 3)
    by_hand = ScoreSet({"a": whole, "b": whole, "row": whole[1], "column": whole[:, 2], "turned": whole.T})
    assert equal(ScoreSet.load(by_hand.save(tmp_path / "scores")), by_hand)


def test_shards_with_an_index(tmp_path: Path) -> None:
    scores = ScoreSet(some_scores(), ABS)
    directory = scores.save(tmp_path / "scores", max_shard_size=100)
    names = sorted(path.name for path in directory.iterdir())
    assert "scores-00001-of-00003.safetensors" in names
    assert "scores.safetensors.index.json" in names
    index = json.loads((directory / "scores.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == scores.scores.keys()
    assert sorted(json.loads((directory / "manifest.json").read_text())["files"]) == sorted(
        set(names) - {"manifest.json"}
    )
    assert equal(ScoreSet.load(directory), scores)


@pytest.mark.parametrize("max_shard_size", ["5GB", 100])
def test_modes(tmp_path: Path, max_shard_size: str | int) -> None:
    directory = ScoreSet(some_scores()).save(tmp_path / "scores", max_shard_size=max_shard_size)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o644}


def test_size_of_neuron_scores(tmp_path: Path) -> None:
    """LLaMA-3-8B's: 458,752 neurons in under 4 MB."""
    scores = {f"model.layers.{layer}.mlp.up_proj": torch.rand(14336) for layer in range(32)}
    directory = ScoreSet(scores).save(tmp_path / "scores")
    assert sum(path.stat().st_size for path in directory.iterdir()) < 4e6


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


SCORES, MANIFEST = "scores.safetensors", "manifest.json"
DAMAGE: list[tuple[str, Callable[[Path], object], type[Exception], str]] = [
    ("bit flipped", lambda d: flip(d / SCORES, -1), ValueError, r"scores\.safetensors must have sha256"),
    ("truncated", lambda d: cut(d / SCORES), ValueError, r"scores\.safetensors must have sha256 .*truncated"),
    ("missing", lambda d: (d / SCORES).unlink(), FileNotFoundError, r"scores\.safetensors is missing"),
    ("no manifest", lambda d: (d / MANIFEST).unlink(), FileNotFoundError, r"no score manifest at .*manifest\.json"),
    ("broken manifest", lambda d: (d / MANIFEST).write_text("{"), ValueError, r"manifest\.json.* no readable"),
    ("manifest no dict", lambda d: (d / MANIFEST).write_text("[]"), ValueError, "format_version 1"),
    ("other version", lambda d: edit(d / MANIFEST, format_version=2), ValueError, "got format_version 2"),
    ("no version", lambda d: edit(d / MANIFEST, format_version=None), ValueError, "got format_version None"),
    ("no files", lambda d: edit(d / MANIFEST, files={}), ValueError, "lists its files"),
    ("path outside", lambda d: edit(d / MANIFEST, files={"../x": "0"}), FileNotFoundError, "is missing"),
]


@pytest.mark.parametrize(
    ("damage", "error", "message"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE]
)
def test_damage_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    directory = ScoreSet(some_scores(), ABS).save(tmp_path / "scores")
    damage(directory)
    with pytest.raises(error, match=message):
        ScoreSet.load(directory)


def test_damaged_shard_is_refused_by_name(tmp_path: Path) -> None:
    directory = ScoreSet(some_scores()).save(tmp_path / "scores", max_shard_size=100)
    flip(directory / "scores-00002-of-00003.safetensors", -3)
    with pytest.raises(ValueError, match=r"scores-00002-of-00003\.safetensors must have sha256"):
        ScoreSet.load(directory)


def test_file_that_is_no_safetensors_at_all(tmp_path: Path) -> None:
    directory = ScoreSet(some_scores()).save(tmp_path / "scores")
    (directory / "scores.safetensors").write_bytes(b"not a tensor")
    edit(directory / "manifest.json", files={"scores.safetensors": room.file_sha256(directory / "scores.safetensors")})
    with pytest.raises(ValueError, match=r"scores\.safetensors is no readable safetensors file"):
        ScoreSet.load(directory)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -1.0])
def test_bad_scores_are_never_saved(tmp_path: Path, value: float) -> None:
    scores = some_scores()
    scores["lm_head"][3] = value
    with pytest.raises(ValueError, match="scores of lm_head must"):
        ScoreSet(scores, ABS).save(tmp_path / "scores")
    assert list(tmp_path.iterdir()) == []


def test_negative_scores_are_fine_where_the_sign_allows_them(tmp_path: Path) -> None:
    signed = Manifest(kind="scores", options={**ABS["options"], "sign": "signed"})
    difference = Manifest(kind="differential", options=ABS["options"])
    for number, manifest in enumerate((signed, difference, Manifest())):
        ScoreSet.load(ScoreSet({"a": torch.tensor([-1.0])}, manifest).save(tmp_path / str(number)))


def test_overflow_on_the_way_to_float32_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        ScoreSet({"a": torch.tensor([1e300], dtype=torch.float64)}).save(tmp_path / "scores")


def test_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one module"):
        ScoreSet({}).save(tmp_path / "scores")


@pytest.mark.parametrize("place", ["save_file", "file_sha256", "write_json"])
def test_nothing_is_half_written(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(room, place, fail)
    with pytest.raises(OSError, match="disk full"):
        ScoreSet(some_scores()).save(tmp_path / "scores")
    assert list(tmp_path.iterdir()) == []


def test_existing_scores_are_not_overwritten(tmp_path: Path) -> None:
    directory = ScoreSet(some_scores()).save(tmp_path / "scores")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(FileExistsError, match="not empty"):
        ScoreSet({"a": torch.ones(1)}).save(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]


def test_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    ScoreSet.load(ScoreSet(some_scores()).save(tmp_path / "scores"))


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (ScoreSet(some_scores(), ABS).save(tmp_path / name) for name in "ab")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}
