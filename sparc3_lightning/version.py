"""The one place where the version stands, and the versions of everything that decides the numbers."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

# Of experiment_results.json and the evaluations beside it. 2: windows' losses, and intervals of perplexity's change.
# 3: second interval and test, size of the effect, power. 4: figures and changes by column, whatever is measured.
RESULTS_FORMAT = 4

PACKAGES = ("torch", "transformers", "lightning", "lxt", "torchmetrics", "detoxify", "datasets", "safetensors")


def package_versions() -> dict[str, str]:
    """Versions of Python, of this project and of the packages that decide the numbers."""
    found = {package: _installed(package) for package in PACKAGES}
    installed = {package: number for package, number in found.items() if number is not None}
    return {"python": platform.python_version(), "sparc3-lightning": __version__, **installed}


@cache
def _installed(package: str) -> str | None:
    # A search through all that is installed: a sweep's manifests would ask for it hundreds of times.
    try:
        return version(package)
    except PackageNotFoundError:
        return None
