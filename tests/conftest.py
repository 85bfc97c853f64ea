"""What every test shares: where the real data is, and tiny models."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# More threads than one a process only fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What every process of tests/launch.py would import again, for seconds each.
multiprocessing.set_forkserver_preload(
    ["transformers.models.llama.modeling_llama", "torch.distributed.fsdp", "sparc3_lightning.cli", "tensorboard"]
)


def fixtures_path() -> Path:
    return Path(os.environ.get("SPARC3_FIXTURES", ROOT.parent / "shared" / "fixtures"))


@pytest.fixture(scope="session")
def fixtures() -> Path:
    path = fixtures_path()
    if not path.is_dir():
        pytest.skip(f"real data and models are not at {path}; set SPARC3_FIXTURES")
    return path


@pytest.fixture
def wide_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager attention takes its softmax in float32, in a float64 model too: the order of a longer sum would show there,
    and a row of padding, masked by the lowest float64, would be NaN. (Gemma 2 has no other attention.)
    """
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: torch.softmax(x, dim))
