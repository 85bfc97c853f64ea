"""What an unfinished attribution goes on from: sums of every rank, finished sets, and a fingerprint of both."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from sparc3_lightning.distributed.ranks import (
    from_rank_zero,
    gather_objects,
    is_rank_zero,
    raise_together,
    rank_and_world_size,
)
from sparc3_lightning.distributed.sums import read_sums, write_sums
from sparc3_lightning.files import fsync, read_json, write_json
from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.lrp.dispatch import uses_triton
from sparc3_lightning.models.identity import tokenizer_hash
from sparc3_lightning.runs.unfinished import FOLDER, STATE_FILE
from sparc3_lightning.trials import RECIPES_DIR
from sparc3_lightning.version import package_versions
from sparc3_lightning.wording import differences

if TYPE_CHECKING:
    from sparc3_lightning.module import SparC3Module


FORMAT_VERSION = 1


@dataclass(frozen=True)
class State:
    """What `state.json` says.

    Attributes:
        fingerprint: What must be the same for the sums to mean the same.
        seconds: Wall time of each stage so far.
        set_name: The reference set in progress; None between two.
        num_batches: Its batches that are in the sums.
        explained: Of each rank, index and explained token of every sample in its sums.
        directory: Where the sums are; None where there are none.
        files: Sha256 of each file in it.
        format_version: Version of this format.
    """

    fingerprint: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    set_name: str | None = None
    num_batches: int = 0
    explained: list[list[tuple[int, int]]] = field(default_factory=list)
    directory: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `state.json`.

        Raises:
            ValueError: It is no state, or of another format version.
        """
        path = folder / STATE_FILE
        content = read_json(path, "state of an unfinished run")
        found = content.get("format_version") if isinstance(content, dict) else None
        names = [content.get("directory") or "-", *content.get("files", {})] if found == FORMAT_VERSION else ["/"]
        if any(Path(name).name != name for name in names):
            raise ValueError(
                f"{path} must be the state of an unfinished run of format_version {FORMAT_VERSION}, got {found!r}. "
                f"Remove {folder}, and the same command begins a new run."
            )
        return cls(**content)


class StateFolder:
    """The `resume/` in a run's directory. Every rank must call every method, but `remove`.

    Args:
        log_dir: The run's directory.
        fingerprint: What must be the same for sums to mean the same: model, samples, options, batches, ranks, versions.
        device: Where the ranks' backend communicates from.
    """

    def __init__(self, log_dir: Path, fingerprint: dict[str, Any], device: torch.device) -> None:
        self.folder = log_dir / FOLDER
        self.fingerprint, self.device = fingerprint, device

    def begin(self) -> State | None:
        """Give the state of the unfinished run; where there is none, begin one, and give None.

        Raises:
            ValueError: The state has another fingerprint: says what changed; or it cannot be read.
        """

        def read() -> State | None:
            if not (self.folder / STATE_FILE).is_file():
                self._switch(State(self.fingerprint))
                self._tidy(None)
                return None
            state = State.read(self.folder)
            changed = differences(state.fingerprint, self.fingerprint)
            if changed:
                raise ValueError(
                    f"the unfinished run in {self.folder.parent} cannot go on, it would mix what is not the same: "
                    f"{changed}. Put that back; or remove {self.folder}, and the same command begins a new run."
                )
            self._tidy(state.directory)
            return state

        return from_rank_zero(read)

    def save(self, state: State, attribution: Attribution, explained: list[tuple[int, int]]) -> None:
        """Replace the state.

        Args:
            state: Set, batches and seconds; the rest is filled in.
            attribution: What holds the sums.
            explained: Index and explained token of each sample in this rank's sums.

        Raises:
            OSError: A rank could not write; names the path. The state before is as it was.
        """
        name = from_rank_zero(lambda: uuid.uuid4().hex[:8])
        directory = self.folder / name
        try:
            mine = raise_together(lambda: write_sums(directory, _prefix(), attribution.parts()), OSError, self.device)
            of_ranks = gather_objects([(mine, explained)])
            files = {file: sha256 for written, _ in of_ranks for file, sha256 in written.items()}
            full = replace(state, directory=name, files=files, explained=[pairs for _, pairs in of_ranks])
            from_rank_zero(lambda: self._switch(full))
        except BaseException:
            # What came after the switch may have failed too: the new state is then the only one.
            if is_rank_zero() and not self._may_name(name):
                shutil.rmtree(directory, ignore_errors=True)
            raise
        from_rank_zero(lambda: self._tidy(name))

    def restore(self, state: State, attribution: Attribution) -> list[tuple[int, int]]:
        """Put the saved sums back.

        Returns:
            Index and explained token of each sample in this rank's sums.

        Raises:
            ValueError: A file is missing, truncated or was changed.
        """
        assert state.directory is not None
        directory, prefix = self.folder / state.directory, _prefix()
        mine = {name: sha256 for name, sha256 in state.files.items() if name.startswith(prefix)}
        raise_together(
            lambda: attribution.restore(read_sums(directory, mine), state.num_batches), ValueError, self.device
        )
        return [(index, token) for index, token in state.explained[rank_and_world_size()[0]]]

    def finish_set(self, seconds: dict[str, float]) -> None:
        """Forget the sums: the set's scores are on the disk."""
        from_rank_zero(lambda: self._switch(State(self.fingerprint, seconds)))
        from_rank_zero(lambda: self._tidy(None))

    def remove(self) -> None:
        """The run is finished."""
        if is_rank_zero():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _switch(self, state: State) -> None:
        lost = [name for name in state.files if not (self.folder / str(state.directory) / name).is_file()]
        if lost:
            raise OSError(
                f"{self.folder / str(state.directory)} lacks {lost}, which other ranks have written: the run's "
                "directory must be on a file system that all nodes share. Set `trainer.logger`."
            )
        if state.directory is not None:
            for path in (self.folder / state.directory, self.folder, self.folder.parent):
                fsync(path)
        write_json(self.folder / STATE_FILE, asdict(state))

    def _may_name(self, directory: str) -> bool:
        """Whether the state on the disk needs the directory; one that cannot be read might."""
        try:
            return State.read(self.folder).directory == directory
        except (ValueError, OSError):
            return True

    def _tidy(self, directory: str | None) -> None:
        """Remove all sums but those that the state names."""
        for path in self.folder.iterdir():
            if path.is_dir() and path.name != directory:
                shutil.rmtree(path, ignore_errors=True)


def _prefix() -> str:
    """What the names of this rank's files begin with."""
    return f"rank{rank_and_world_size()[0]}-"


# Scores of one and of another version of these are not added up.
_SAME_VERSIONS = ("sparc3-lightning", "torch", "transformers", "lxt")


def fingerprint(module: SparC3Module) -> dict[str, Any]:
    """Model, samples, options, batches, ranks and versions, as JSON.

    Args:
        module: The module of a predict run, its rules on.
    """
    assert module.attribution is not None
    data, trainer, versions = module.data, module.trainer, package_versions()
    fused = uses_triton(module.attribution_options["kernel"], module.device, module.weights_dtype)
    return {
        "weights": module.run.base_model["weight_hash"],
        "tokenizer": tokenizer_hash(module.tokenizer),
        "samples": {name: samples.token_hash for name, samples in data.reference_samples.items()},
        "options": dict(module.attribution.method.options),
        "dtype": str(module.weights_dtype).removeprefix("torch."),
        "attn_implementation": module.attn_implementation,
        "kernel": "triton" if fused else "eager",
        "data": {"batch_size": data.batch_size, "max_tokens": data.max_tokens, "bucket": data.bucket},
        "trainer": {
            "world_size": trainer.world_size,
            "strategy": type(trainer.strategy).__name__,
            "precision": str(trainer.precision),
            "device": module.device.type,
        },
        "versions": {package: versions.get(package) for package in _SAME_VERSIONS},
    }


def forget_later_stages(log_dir: Path) -> None:
    """Make room for selection and evaluation, which are done again, and clear away what was half written."""
    half_written = [
        path
        for room in (".", "scores", "trials", "figures", "circuit")
        for path in (log_dir / room).glob(".*.????????.tmp")
    ]
    made = [log_dir / "scores" / "differential", log_dir / "pruned_model", log_dir / RECIPES_DIR, log_dir / "circuit"]
    for path in [*made, *half_written]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
