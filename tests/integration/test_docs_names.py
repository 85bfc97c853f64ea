"""What README.md and docs/ name is there: files, commands, keys, links; and what was generated is up to date."""

import importlib.util
import inspect
import re
import sys
from types import ModuleType

import pytest

import callbacks
from sparc3_lightning import data
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.main import FILE_COMMANDS, TRAINER_COMMANDS
from sparc3_lightning.metrics.perplexity import windows
from tests.pages import ALL, PAGES
from tests.runs import ROOT


def test_configs_that_are_named_are_there() -> None:
    named = set(re.findall(r"\b(?:tests/)?configs/[\w./]+\.yaml", ALL)) | set(re.findall(r"configs/[\w./]+/", ALL))
    assert "configs/tiny/suppress.yaml" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_files_of_this_project_that_are_named_are_there() -> None:
    """Whole paths in code spans; a path inside the package or the tests may leave out the first."""
    spans = set(re.findall(r"`((?:[\w.]+/)+[\w.]+\.(?:py|md|yaml))`", ALL)) | set(re.findall(r"python (\S+\.py)", ALL))
    assert "benchmarks/attribution.py" in spans
    homes = (ROOT, ROOT / "sparc3_lightning", ROOT / "tests")
    assert [name for name in spans if not any((home / name).exists() for home in homes)] == []


@pytest.mark.parametrize("folder", ["llama3_8b", "trainer"])
@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md"])
def test_tables_name_every_fragment(page: str, folder: str) -> None:
    fragments = {path.name for path in (ROOT / "configs" / folder).glob("*.yaml")} - {"suppress.yaml"}
    assert [name for name in fragments if f"`{name}`" not in PAGES[page]] == []


def test_spans_name_commands_targets_and_modules_that_exist() -> None:
    assert set(re.findall(r"`sparc3 (\w+)", ALL)) <= {*TRAINER_COMMANDS, *FILE_COMMANDS}
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`make ([\w-]+)", ALL))
    assert {"demo", "docs"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    for module in set(re.findall(r"python -m ([\w.]+)", ALL)):
        assert importlib.util.find_spec(module) is not None


def test_keys_in_code_spans_exist() -> None:
    known = set(re.findall(r"^\| `((?:model|data)\.\w+)` \|", PAGES["docs/configuration.md"], re.MULTILINE))
    named = set(re.findall(r"`((?:model|data)\.\w+)\b", ALL))
    assert len(named) > 10
    assert named <= known
    classes = {"C4": data.C4, "RealToxicityPrompts": data.RealToxicityPrompts, "Evaluator": Evaluator}
    classes |= {name: getattr(callbacks, name) for name in callbacks.__all__}
    for name, key in re.findall(rf"`({'|'.join(classes)})\.(\w+)`", ALL):
        assert key in inspect.signature(classes[name]).parameters, f"{name}.{key}"


def anchors(page: str) -> set[str]:
    """Of every heading, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", PAGES[page], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        sources = re.findall(r'\bsrc="(?!https?:)([^"]+)"', text)
        assert bool(sources) == ("<img" in text)
        for link in [*re.findall(r"\]\((?!https?:)([^)]+)\)", text), *sources]:
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), f"{page}: {link}"
            if anchor:
                assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), f"{page}: {link}"


def test_tests_that_are_named_are_there() -> None:
    named = re.findall(r"`([\w/]+\.py)`: `(test_\w+)`", ALL)
    assert len(named) > 20
    for path, test in named:
        assert f"def {test}(" in (ROOT / "tests" / path).read_text(), f"{path}: {test}"


def test_counts_of_the_large_run() -> None:
    """README's windows of WikiText-2: the text has 288,937 tokens under LLaMA-3's tokenizer."""
    counted = {name: len(windows(288_937, name, 2048, 512)) for name in ("sliding", "disjoint")}
    assert f"{counted['sliding']} windows under `sliding` and {counted['disjoint']} under `disjoint`" in ALL


def generator(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "page"), [("reference", "configuration.md"), ("scaling", "scaling.md")])
def test_generated_parts_are_those_of_the_code(name: str, page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    assert generator(name).page(text) == text, "run `make docs`"
