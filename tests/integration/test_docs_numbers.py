"""Numbers and option tables of README.md are those of the configs and signatures."""

import inspect
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml

from callbacks import PruningCallback
from sparc3_lightning.data import C4, RealToxicityPrompts
from sparc3_lightning.demo.__main__ import SUPPRESS_CONFIG, Demo
from sparc3_lightning.demo.model import PACKAGE
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.module import SparC3Module
from tests.pages import PAGES
from tests.runs import ROOT

README = PAGES["README.md"]
TABLE = re.search(r"^\| option \| takes \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
ROWS = [[cell.strip() for cell in row.strip("|").split("|")] for row in (TABLE[1] if TABLE else "").splitlines()]
CLASSES: dict[str, type] = {"model": SparC3Module, "PruningCallback": PruningCallback, "C4": C4}
# Options that the table calls by another name than their own.
NAMED: dict[str, tuple[type, str]] = {
    "select_by": (RealToxicityPrompts, "select_by"),
    "perplexity protocols": (Evaluator, "perplexity_protocols"),
    "toxicity protocol": (Evaluator, "toxicity_protocol"),
}


def config(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def test_counts_of_the_demo() -> None:
    callbacks = config(str(SUPPRESS_CONFIG))["trainer"]["callbacks"]
    options = {callback["class_path"]: callback.get("init_args", {}) for callback in callbacks}
    pruning, sizes = options["callbacks.PruningCallback"], Demo().sizes
    for told in (
        f"removes {pruning['num_neurons']} of 46,080 neurons",
        f"the first {pruning['screen']['num_candidates']} candidates",
        f"Removing these {pruning['num_neurons']} neurons",
        f"{sizes.num_prompts} openings of insults",
        f"{sizes.num_heldout} insults",
        f"the mean of { ({2: 'two', 5: 'five'}[options['callbacks.EvaluationCallback']['num_control_draws']]) } draws",
        PACKAGE,
    ):
        assert told in " ".join(README.split()), told


def documented(option: str) -> tuple[type, str]:
    """The class and the parameter that a row is about."""
    for name, found in NAMED.items():
        if name in option:
            return found
    named = re.search(r"`(\w+)\.(\w+)`", option)
    assert named is not None, option
    return CLASSES[named[1]], named[2]


def choices(hint: Any) -> list[str]:
    """What a Literal, or a list of one, takes."""
    return (
        list(get_args(hint)) if get_origin(hint) is Literal else [c for inner in get_args(hint) for c in choices(inner)]
    )


def test_the_option_table_is_read() -> None:
    assert len(ROWS) >= 11


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_option_table_says_what_the_signatures_say(row: list[str]) -> None:
    """Choices and default; what the paper and the document use must be a choice, too."""
    owner, name = documented(row[0])
    takes = re.findall(r"`([^`]+)`", row[1])
    default = inspect.signature(owner).parameters[name].default
    known = choices(get_type_hints(owner.__init__)[name])
    if known:
        assert sorted(takes) == sorted(known)
    if row[2] == "both":
        assert list(default) == takes
        assert len(takes) == 2
    elif row[2] == "the first":
        assert default == takes[0]
    elif row[2].isdecimal():
        assert default == float(row[2])
    else:
        assert row[2].split()[0] == f"`{default}`"
    for used in row[3:]:
        assert set(re.findall(r"`([^`]+)`", used)) <= set(takes), used
