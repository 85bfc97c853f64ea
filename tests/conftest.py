"""What every test shares: where the real data is, and tiny models."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def fixtures_path() -> Path:
    return Path(os.environ.get("SPARC3_FIXTURES", ROOT.parent / "shared" / "fixtures"))


@pytest.fixture(scope="session")
def fixtures() -> Path:
    path = fixtures_path()
    if not path.is_dir():
        pytest.skip(f"real data and models are not at {path}; set SPARC3_FIXTURES")
    return path
