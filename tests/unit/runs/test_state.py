"""The state of an unfinished attribution: whole or refused, and replaced in one step."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparc3_lightning.distributed import sums
from sparc3_lightning.distributed.sums import read_sums, write_sums
from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.runs.resume import State, StateFolder, forget_later_stages
from sparc3_lightning.runs.unfinished import is_unfinished
from sparc3_lightning.scoring.plain import attribute
from sparc3_lightning.wording import differences
from tests.disk import record
from tests.tiny import tiny_llama, tiny_samples

CPU = torch.device("cpu")
FINGERPRINT: dict[str, Any] = {"weights": "abc", "options": {"sign": "abs"}, "world_size": 1}
EXPLAINED = [(0, 5), (2, 7)]


def attribution(granularity: str = "neuron") -> Attribution:
    return Attribution(tiny_llama(), granularity=granularity)  # type: ignore[arg-type]


def step(running: Attribution, seed: int) -> None:
    (sample,) = tiny_samples((6,), seed)
    running.step(sample[None], torch.tensor([len(sample)]))


def saved(log_dir: Path, num_batches: int = 2) -> tuple[StateFolder, dict[str, torch.Tensor]]:
    """A state after `num_batches` batches, and the sums in it."""
    folder = StateFolder(log_dir, FINGERPRINT, CPU)
    assert folder.begin() is None
    with attribution() as running:
        for seed in range(num_batches):
            step(running, seed)
        folder.save(State(FINGERPRINT, {"attribution: toxic": 1.5}, "toxic", num_batches), running, EXPLAINED)
        return folder, {name: part.clone() for name, part in running.parts().items()}


def sum_files(log_dir: Path) -> list[Path]:
    return sorted(log_dir.rglob("*.safetensors"))


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
def test_sums_go_on_bit_for_bit(granularity: str, tmp_path: Path) -> None:
    with attribution(granularity) as whole:
        for seed in range(4):
            step(whole, seed)
        wanted = {name: part.clone() for name, part in whole.parts().items()}
    folder = StateFolder(tmp_path, FINGERPRINT, CPU)
    folder.begin()
    with attribution(granularity) as first:
        step(first, 0)
        step(first, 1)
        folder.save(State(FINGERPRINT, {}, "toxic", 2), first, EXPLAINED)
    folder = StateFolder(tmp_path, FINGERPRINT, CPU)
    state = folder.begin()
    assert state is not None
    with attribution(granularity) as second:
        assert folder.restore(state, second) == EXPLAINED
        assert second.num_batches == 2
        step(second, 2)
        step(second, 3)
        assert all(torch.equal(part, wanted[name]) for name, part in second.parts().items())


def test_one_state_at_a_time(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    (before,) = sum_files(tmp_path)
    with attribution() as running:
        step(running, 5)
        folder.save(State(FINGERPRINT, {}, "toxic", 1), running, EXPLAINED)
    (after,) = sum_files(tmp_path)
    assert after.parent != before.parent
    folder.finish_set({})
    assert sum_files(tmp_path) == []
    assert is_unfinished(tmp_path)
    folder.remove()
    assert not is_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_died_while_saving_is_cleared_away(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    half = folder.folder / "deadbeef"
    half.mkdir()
    (half / "rank0-0.safetensors").write_bytes(b"half")
    assert StateFolder(tmp_path, FINGERPRINT, CPU).begin() is not None
    assert not half.exists()
    assert len(sum_files(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "def"}, "`weights` was 'abc' and is 'def'"),
        ({"options": {"sign": "signed"}}, "`options.sign` was 'abs' and is 'signed'"),
        ({"world_size": 2}, "`world_size` was 1 and is 2"),
        ({"more": True}, "`more` was None and is True"),
    ],
)
def test_another_fingerprint_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    with pytest.raises(ValueError, match=rf"cannot go on.*{said}\. Put that back; or remove .*resume"):
        StateFolder(tmp_path, {**FINGERPRINT, **change}, CPU).begin()
    assert folder.begin() is not None, "the refused one has changed nothing"


def test_a_long_value_is_cut() -> None:
    assert differences({"a": "x" * 64}, {"a": "y" * 64}) == f"`a` was '{'x' * 15}... and is '{'y' * 15}..."


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), r"rank0-0\.safetensors must have sha256 .*truncated"),
        (flip, r"rank0-0\.safetensors must have sha256"),
        (Path.unlink, r"rank0-0\.safetensors is missing"),
    ],
    ids=["truncated", "flipped", "missing"],
)
def test_harmed_sums_are_refused(harm: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    harm(sum_files(tmp_path)[0])
    state = folder.begin()
    assert state is not None
    with attribution() as running, pytest.raises(ValueError, match=said):
        folder.restore(state, running)


@pytest.mark.parametrize(
    "change",
    [{"format_version": 2}, {"directory": "../elsewhere"}, {"files": {"../up.safetensors": "0"}}],
    ids=lambda change: next(iter(change)),
)
def test_another_format_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    path = folder.folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"state\.json must be the state of an unfinished run of format_version 1"):
        folder.begin()


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_no_json_is_refused(content: str, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    (folder.folder / "state.json").write_text(content)
    with pytest.raises(ValueError, match=r"state\.json"):
        folder.begin()


def test_sums_of_another_granularity_are_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    state = folder.begin()
    assert state is not None
    with attribution("weight") as running, pytest.raises(ValueError, match=r"does not fit.*up_proj"):
        folder.restore(state, running)


def test_a_layer_less_is_refused(tmp_path: Path) -> None:
    files = write_sums(tmp_path, "a", {"model.layers.0.mlp.up_proj": torch.zeros(24)})
    with attribution() as running, pytest.raises(ValueError, match=r"missing: \['model\.layers\.1\.mlp\.up_proj'\]"):
        running.restore(read_sums(tmp_path, files), 1)


def test_large_sums_go_to_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_MAX_BYTES", 100)
    buffer = torch.arange(60.0)
    parts = {name: buffer[start : start + 20] for name, start in (("a", 0), ("b", 20), ("c", 40))}
    parts["empty"] = torch.zeros(0, 4)  # FSDP2's shard where there are more ranks than rows
    files = write_sums(tmp_path, "rank0-", parts)
    assert sorted(files) == [f"rank0-{number}.safetensors" for number in range(3)]
    found = dict(read_sums(tmp_path, files))
    assert found.keys() == parts.keys()
    assert all(torch.equal(found[name], part) for name, part in parts.items())


@pytest.mark.parametrize("largest", [0, 2000], ids=["the sums", "state.json"])
def test_full_disk_while_saving_leaves_the_old_state(largest: int, tmp_path: Path) -> None:
    """`largest` is a file-size limit: at 0 the sums fail; at 2000 bytes they pass and state.json does not."""
    folder, before = saved(tmp_path)
    with attribution() as running:
        step(running, 7)
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, old[1]))
        try:
            with pytest.raises(OSError, match=r"File too large.*") as caught:
                folder.save(State(FINGERPRINT, {}, "toxic", 1), running, EXPLAINED * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert str(folder.folder) in str(caught.value)
    state = folder.begin()
    assert state is not None
    assert state.num_batches == 2
    assert [path.name for path in folder.folder.iterdir() if path.is_dir()] == [state.directory]
    with attribution() as again:
        folder.restore(state, again)
        assert all(torch.equal(part, before[name]) for name, part in again.parts().items())
    assert [name for name in os.listdir(folder.folder) if name.endswith(".tmp")] == []


def tidy_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StateFolder, "_tidy", interrupt)
    return KeyboardInterrupt


def broadcast_fails_after_the_switch(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    switch = StateFolder._switch

    def fail(*args: Any) -> None:
        switch(*args)
        for path in args[0].folder.iterdir():  # as if the old one were gone already
            if path.is_dir() and path.name != args[1].directory:
                shutil.rmtree(path)
        raise RuntimeError

    monkeypatch.setattr(StateFolder, "_switch", fail)
    return RuntimeError


@pytest.mark.parametrize("fault", [tidy_is_interrupted, broadcast_fails_after_the_switch])
def test_a_fault_after_the_switch_leaves_the_new_state(
    fault: Callable[[pytest.MonkeyPatch], type[BaseException]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = saved(tmp_path)
    with attribution() as running, monkeypatch.context() as patch:
        step(running, 7)
        wanted = {name: part.clone() for name, part in running.parts().items()}
        error = fault(patch)
        with pytest.raises(error):
            folder.save(State(FINGERPRINT, {}, "toxic", 1), running, EXPLAINED)
    state = folder.begin()
    assert state is not None
    assert state.num_batches == 1
    assert [path.name for path in folder.folder.iterdir() if path.is_dir()] == [state.directory]
    with attribution() as again:
        folder.restore(state, again)
        assert all(torch.equal(part, wanted[name]) for name, part in again.parts().items())


def test_a_state_is_on_the_disk_before_the_old_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = saved(tmp_path)
    old = sum_files(tmp_path)[0].parent.name
    with attribution() as running:
        step(running, 7)
        calls = record(monkeypatch)
        folder.save(State(FINGERPRINT, {}, "toxic", 1), running, EXPLAINED)
    new = sum_files(tmp_path)[0].parent.name
    first = ["rank0-0.safetensors", new, new, "resume", tmp_path.name, ".tmp"]
    then = ["replace state.json", "fsync resume", f"rmtree {old}"]
    assert calls == [*(f"fsync {name}" for name in first), *then]


def test_scores_are_on_the_disk_before_sums_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = saved(tmp_path)
    old = sum_files(tmp_path)[0].parent.name
    scores = attribute(tiny_llama(), tiny_samples())
    calls = record(monkeypatch)
    scores.save(tmp_path / "scores" / "toxic")
    folder.finish_set({})
    order = ["fsync scores.safetensors", "replace toxic", "fsync scores", "replace state.json", f"rmtree {old}"]
    assert [calls.index(call) for call in order] == sorted(calls.index(call) for call in order)


def test_later_stages_make_room(tmp_path: Path) -> None:
    kept = ["scores/toxic/manifest.json", "pruned_neurons.json", ".theirs.tmp", "deep/er/.a.12345678.tmp"]
    gone = ["scores/differential/manifest.json", "scores/differential/insult/manifest.json",
            "pruned_model/config.json", "recipes/insult/pruned_neurons.json", ".a.json.12345678.tmp",
            "scores/.toxic.12345678.tmp/scores.safetensors"]  # fmt: skip
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    forget_later_stages(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
