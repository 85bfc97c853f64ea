"""The shim around LXT's import, and when it can go."""

import subprocess
import sys

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def alone() -> subprocess.CompletedProcess[str]:
    return run("import lxt.efficient")


def test_shim_is_still_needed(alone: subprocess.CompletedProcess[str]) -> None:
    assert alone.returncode != 0, (
        "`import lxt.efficient` works by itself now: sparc3_lightning/lrp/lxt_rules.py can go, import "
        "divide_gradient and stop_gradient from lxt.efficient.rules."
    )


def test_import_leaves_nothing_behind() -> None:
    result = run(
        "import sys; from sparc3_lightning.lrp import lxt_rules\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'lxt'])"
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_lxt_fails_as_by_itself_afterwards(alone: subprocess.CompletedProcess[str]) -> None:
    after = run("from sparc3_lightning.lrp import lxt_rules; import lxt.efficient")
    assert alone.stderr.splitlines()[-1] == after.stderr.splitlines()[-1]


def test_rules_are_lxts_own() -> None:
    from sparc3_lightning.lrp.lxt_rules import divide_gradient, stop_gradient

    assert divide_gradient.__module__ == stop_gradient.__module__ == "lxt.efficient.rules"


def test_package_already_imported_is_used() -> None:
    """Someone who got LXT to import (as the oracle does) keeps their modules."""
    result = run(
        "import sys, types, importlib.util\n"
        "package = types.ModuleType('lxt.efficient')\n"
        "package.__path__ = [importlib.util.find_spec('lxt').submodule_search_locations[0] + '/efficient']\n"
        "sys.modules['lxt.efficient'] = package\n"
        "from sparc3_lightning.lrp import lxt_rules\n"
        "assert sys.modules['lxt.efficient'] is package\n"
        "assert sys.modules['lxt.efficient.rules'].divide_gradient is lxt_rules.divide_gradient\n"
    )
    assert result.returncode == 0, result.stderr
