"""How much memory a block of code takes, as the kernel counts it for this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Growth:
    """Bytes of resident memory above the start's, at the block's worst moment."""

    bytes: int = 0


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


@contextmanager
def peak_growth() -> Iterator[Growth]:
    """Measure a block; pages of mapped files count too."""
    growth = Growth()
    # Sets the kernel's own record of the peak back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    yield growth
    growth.bytes = _resident("VmHWM") - before
