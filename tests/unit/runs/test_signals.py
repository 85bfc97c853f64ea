"""Signals are noted, acted on at once only where told, and as before afterwards."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from sparc3_lightning.runs.signals import EXIT_CODE, SIGNALS, STOP_FILE, StopSignals, end_children, ended_by_sigterm


@pytest.fixture(autouse=True)
def interrupted_as_in_a_terminal() -> Iterator[None]:
    """A shell starts what runs in its background with Ctrl-C ignored, and Python leaves that as it is."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number.name
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("first", SIGNALS)
def test_ctrl_c_after_any_interrupts_at_once(first: signal.Signals) -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may send that twice
        assert signals.received == first.name
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_who_types_ctrl_c_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
    assert "the batch in progress is finished and saved. Ctrl-C once more stops at once." in capfd.readouterr().err


@pytest.mark.parametrize("folder", [".", "gone"])
def test_the_launcher_is_told(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STOP_FILE, str(tmp_path / folder / "stop"))
    with StopSignals() as signals:
        assert not (tmp_path / "stop").exists()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == "SIGUSR1", "whether or not the file can be made"
    assert (tmp_path / "stop").exists() == (folder == ".")


def test_at_once_ends_the_process() -> None:
    with StopSignals() as signals:
        signals.at_once = True
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGUSR1)
    assert ended.value.code == EXIT_CODE == 75


def test_a_handler_set_since_stays() -> None:
    """Lightning puts back, at a run's end, what it found at its start."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with StopSignals():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_children_are_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    launcher = SimpleNamespace(procs=[child])
    end_children(launcher)
    assert child.wait() == -signal.SIGKILL
    assert launcher.procs == []
    end_children(None)


class Terminated(BoringModel):
    """SIGTERM comes while it is tested."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_a_test_though_lightning_would_only_note_it(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    with ended_by_sigterm(), pytest.raises(SystemExit) as ended:
        trainer.test(Terminated(), verbose=False)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
