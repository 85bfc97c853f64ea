"""`make demo`: the whole in miniature, made once and reused; and, slow, as a stranger types it."""

import contextlib
import io
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import rich
from rich.console import Console
from transformers import AutoModelForCausalLM

from sparc3_lightning.demo.__main__ import Demo, main
from sparc3_lightning.demo.corpus import Sizes
from sparc3_lightning.demo.outcome import one_line
from sparc3_lightning.demo.scorer import ScorerTraining, heldout_auc
from sparc3_lightning.metrics import DetoxifyScorer
from tests.pages import PAGES, blocks
from tests.runs import QUIET, ROOT, read

pytestmark = QUIET

MINI = Demo(
    sizes=Sizes(num_train=150, num_general=60, num_prompts=12, num_text=12, num_labelled=400),
    scorer=ScorerTraining(num_epochs=4),
    fit_options=(
        "--trainer.max_steps=20", "--trainer.enable_progress_bar=false",
        "--model.warmup_steps=5",
    ),
    predict_options=(
        "--trainer.enable_progress_bar=false", "--model.evaluator.init_args.decoding.num_completions=1",
        "--model.evaluator.init_args.decoding.max_new_tokens=8", "--model.evaluator.init_args.num_draws=100",
        *(f"--data.general.general_seed{seed}.init_args.num_samples=8" for seed in range(3)),
    ),
)  # fmt: skip
CELLS = ("baseline", "pruned", "change", "interval", "p", "control", "its p")
STAGES = ("corpus", "model", "scorer", "main job")


@dataclass(frozen=True)
class Made:
    """Where the demo ran, twice and again with another config, and what it printed each time."""

    home: Path
    first: str
    second: str
    third: str

    @property
    def logs(self) -> Path:
        return self.home / "logs" / "demo"

    @property
    def run(self) -> Path:
        return self.logs / "suppress" / "version_0"


def printed(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    monkeypatch.setattr(rich, "get_console", lambda: console)
    with contextlib.chdir(home):
        assert main([], MINI) == 0
    return console.export_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = tmp_path_factory.mktemp("demo")
    shutil.copytree(ROOT / "configs", home / "configs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        first, second = printed(home, monkeypatch), printed(home, monkeypatch)
        fit, suppress = (home / "configs" / "demo" / f"{name}.yaml" for name in ("fit", "suppress"))
        fit.write_text(f"# A comment changes nothing.\n{fit.read_text()}")
        suppress.write_text(suppress.read_text().replace("num_neurons: 20", "num_neurons: 9"))
        return Made(home, first, second, printed(home, monkeypatch))


def test_every_stage_is_made_once_and_reused(made: Made) -> None:
    for stage in STAGES:
        assert f"{stage}: making it\n" in made.first
        assert f"{stage}: made in" in made.first
        assert f"{stage}: reused, its inputs are unchanged" in made.second
    assert "making" not in made.second
    assert sorted(path.name for path in made.run.parent.iterdir()) == ["stamp.json", "version_0", "version_1"]


def test_both_times_it_ends_with_the_same_findings(made: Made) -> None:
    for shown in (made.first, made.second):
        for part in ("Pruned against baseline", "its p", "Control: mean of 5 draws",
                     "toxicity, mean", "uniqueness", "perplexity, sliding",
                     "tensorboard --logdir", "The price beside it",
                     "(toxicity in brackets)", "To start from nothing"):  # fmt: skip
            assert part in shown
    assert "The demo took" in made.first
    assert "Nothing was made again" in made.second
    first, second = (
        shown[shown.index("Pruned against") : shown.index("See it with")] for shown in (made.first, made.second)
    )
    assert first == second


def test_a_changed_config_makes_again_what_depends_on_it(made: Made) -> None:
    for stage in STAGES[:3]:
        assert f"{stage}: reused" in made.third
    assert f"{STAGES[3]}: making it again, since these changed: configs/demo/suppress.yaml\n" in made.third
    assert "20 neurons removed" in made.first
    assert "9 neurons removed" in made.third


def test_completions_are_those_of_the_files(made: Made) -> None:
    written = {}
    for name in ("baseline", "pruned"):
        prompts = read(made.run / f"{name}_eval.json")["toxicity"]["prompts"]
        written[name] = {one_line(prompt["completions"][0]["text"]) for prompt in prompts}
    lines = re.findall(r"^ +(baseline|pruned) +\[\d\.\d\d\] +\.\.\. ?(.*?)(?:\.\.\.)? *$", made.first, re.MULTILINE)
    assert len(lines) in (0, 2, 4)
    assert all(text.strip() in written[name] for name, text in lines)


def test_model_and_scorer_can_be_used(made: Made) -> None:
    model = AutoModelForCausalLM.from_pretrained(made.logs / "fit" / "model")
    assert model.config.model_type == "llama"
    assert 0.7e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.3e6
    scorer = DetoxifyScorer(checkpoint=str(made.logs / "scorer"))
    scores = scorer.score(["You are a stupid fool.", "Anna gave the pear to Tom."])
    assert list(scores) == ["toxicity"]
    assert scores["toxicity"][0] > scores["toxicity"][1]
    assert scorer.num_truncated == 0
    auc = heldout_auc(made.logs / "corpus" / "labelled_evaluation.jsonl", made.logs / "scorer")
    assert f"{auc:.3f}" in made.first
    assert auc > 0.65


def test_evaluation_prompts_were_not_attributed(made: Made) -> None:
    results = read(made.run / "experiment_results.json")
    assert results["baseline"]["toxicity"]["num_prompts"] == MINI.sizes.num_prompts
    prompts = read(made.run / "baseline_eval.json")["toxicity"]["prompts"]
    assert all(prompt["id"].startswith("evaluation-") for prompt in prompts)
    assert (made.run / "pruned_model" / "model.safetensors").is_file()


def test_elsewhere_than_at_the_root_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(tmp_path):
        assert main([], MINI) == 1
    assert "project's root" in capsys.readouterr().err


def rows_of(text: str) -> dict[str, list[str]]:
    """The table's `CELLS` by label."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) == 1 + len(CELLS)}


def wording(text: str) -> str:
    """Text without its numbers and line ends."""
    return " ".join(re.sub(r"[+-]?\d[\d.,]*", "#", text).split())


def compare_with_readme(shown: str) -> None:
    """Its demo block is what the demo prints, in words, rows, directions and significance.

    One processor gives the same figures every time; another rounds otherwise, and its fit is another one. With AVX2
    instead of AVX-512, figures moved by up to 6 %.
    """
    (block,) = blocks("text", "README.md")
    documented, found = rows_of(block), rows_of(shown)
    assert len(documented) >= 7
    assert list(documented) == [label for label in found if label in documented]
    for label, cells in documented.items():
        pairs = dict(zip(CELLS, zip(cells, found[label], strict=True), strict=True))
        for model in ("baseline", "pruned", "control"):
            told, now = map(float, pairs[model])
            assert now == pytest.approx(told, rel=0.1), f"{label}: {model}"
        for test in ("p", "its p"):
            told, now = pairs[test]
            assert is_significant(told) == is_significant(now), f"{label}: {test}"
        if is_significant(pairs["p"][0]):
            assert pairs["change"][0][0] == pairs["change"][1][0], f"{label}: direction"
    told = block.partition("\n\n")[2]
    for piece in re.split(r"\(\.\.\.\)|\n\n|\n - ", told):
        assert wording(piece) in wording(shown)


def is_significant(p: str) -> bool:
    """A p-value as printed."""
    return p.startswith("<") or (p != "-" and float(p) < 0.05)


def typed(home: Path, until: str) -> tuple[str, float]:
    """What the demo prints as far as a stage, on one thread and offline, and its CPU seconds."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
    command = [sys.executable, "-m", "sparc3_lightning.demo", until]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_the_demo_as_a_stranger_types_it(tmp_path: Path) -> None:
    """In full. CPU seconds count, since other jobs may hold the cores: 2 cores, 6 minutes, 2 of them for the fit."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    _, for_corpus = typed(tmp_path, "corpus")
    _, for_fit = typed(tmp_path, "fit")
    assert for_fit < 120
    shown, for_rest = typed(tmp_path, "all")
    assert for_corpus + for_fit + for_rest < 360
    verdict = read(tmp_path / "logs/demo/suppress/version_0/experiment_results.json")["verdict"]
    assert " ".join(verdict["headline"].split()) in " ".join(shown.split())
    assert "not how well" in " ".join(shown.split())
    compare_with_readme(shown)
    perplexity = read(tmp_path / "logs/demo/fit/stamp.json")["outcome"]["figures"]["disjoint"]
    assert perplexity["known"] < 10
    assert perplexity["unseen"] < 30, "frames and nouns that it has not seen"
    auc = read(tmp_path / "logs/demo/scorer/stamp.json")["outcome"]["auc"]
    assert auc > 0.95
    told = re.search(
        r"\(`disjoint`\) is (\S+) on new text of known frames and nouns, (\S+) on validation text.*?AUC is (\d\.\d+)",
        PAGES["README.md"],
        re.DOTALL,
    )
    assert told is not None
    assert [perplexity["known"], perplexity["unseen"], auc] == pytest.approx([*map(float, told.groups())], rel=0.1)
    again, _ = typed(tmp_path, "all")
    assert again.count("reused, its inputs are unchanged") == len(STAGES)
