"""The one place where the version stands, and the versions of everything that decides the numbers."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

# Of experiment_results.json and the evaluations beside it. 2: windows' losses, and intervals of perplexity's change.
RESULTS_FORMAT = 2

PACKAGES = ("torch", "transformers", "lightning", "lxt", "torchmetrics", "detoxify", "datasets", "safetensors")


def package_versions() -> dict[str, str]:
    """Versions of Python, of this project and of the packages that decide the numbers."""
    versions = {"python": platform.python_version(), "sparc3-lightning": __version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
