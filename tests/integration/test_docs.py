"""README.md and docs/ are true: their Python runs, their commands parse or run, a run's results are those described."""

import contextlib
import glob
import re
import shutil
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from detoxify.detoxify import MODEL_URLS
from transformers import AutoTokenizer

from sparc3_lightning import commands
from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.main import TRAINER_COMMANDS, main
from sparc3_lightning.metrics import Completion, CompletionMeasure
from sparc3_lightning.models.load import build_model
from sparc3_lightning.pruning.recipe import Recipe
from tests.pages import PAGES, blocks, is_file, lines, sparc3_words
from tests.runs import QUIET, ROOT, TINY, read

pytestmark = QUIET

# The model that the examples name; here a tiny one stands in for it.
MODEL = "meta-llama/Meta-Llama-3-8B"
OWN = "docs/own_behaviour.md"
OWN_MODEL = "HuggingFaceTB/SmolLM2-135M"
# A random model's words cost nothing to speak of, and sixteen of them are all that the tiny experiment has. It has so
# few weights that a larger share of them must go.
SMALLER = {
    "sparsity: 0.0003": "sparsity: 0.003",
    "num_control_draws: 5": "num_control_draws: 1",
    "num_samples: 128}": "num_samples: 16}",
    "num_candidates: 150, price_weight: 30.0": "num_candidates: 40, price_weight: 0.0",
}


PYTHON = [block for block in blocks("python") if not is_file(block)]
COMMANDS = [found for page in PAGES if page != OWN for words in lines(page) if (found := sparc3_words(words))]
EXECUTED = ("inspect", "select", "plan")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment's model and tokenizer, saved."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "configs" / "tiny" / "tokenizer")
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    build_model(read(ROOT / TINY)["model"]["config"], len(tokenizer)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def workplace(brief_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader is after the tiny run: at the project's root, with `logs/tiny/version_0`."""
    home = tmp_path_factory.mktemp("workplace")
    (home / "tests").mkdir()
    for name in ("configs", "tests/configs"):
        (home / name).symlink_to(ROOT / name)
    shutil.copytree(brief_run, home / "logs" / "tiny" / "version_0")
    shutil.copy(brief_run / "pruned_neurons.json", home)
    (home / "rates.json").write_text('{"tflops": 400}')
    return home


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are parsed and not built."""
    monkeypatch.setattr(SparC3CLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(SparC3CLI, "_run_subcommand", lambda self, subcommand: None)


def test_there_is_something_to_test() -> None:
    assert {"README.md", "docs/configuration.md", "docs/method.md", "docs/results.md", OWN} <= set(PAGES)
    assert any("apply_recipe" in block for block in PYTHON)
    assert {"predict", "test", "inspect", "select", "apply", "report", "compare", "plan"} <= {
        words[0] for words in COMMANDS
    }


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_block_runs(block: str, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each block by itself, in an empty directory."""
    assert (MODEL in block) != ("class " in block), "it runs a model, or writes a measure"
    names: dict[str, object] = {"__name__": "docs"}
    with contextlib.chdir(tmp_path):
        exec(compile(block.replace(MODEL, str(model_dir)), "docs", "exec"), names)
    shown = capsys.readouterr().out.strip()
    for written in (one for one in names.values() if isinstance(one, type) and one.__module__ == "docs"):
        measure = written()
        assert isinstance(measure, CompletionMeasure)
        measure.update([Completion(0, 0, [1, 2], "Who? Why?"), Completion(0, 1, [3], "So.")])
        assert measure.compute().values == [[[2.0], [0.0]]]
    assert bool(shown) == (MODEL in block)
    if "recipe" in names:
        assert isinstance(names["recipe"], Recipe)
        assert len(names["recipe"].neurons) == 10
    if "verified" in names:
        proposed, verified = names["candidates"], names["verified"]
        assert isinstance(proposed, Recipe)
        assert isinstance(verified, Recipe)
        assert 0 < len(verified.neurons) <= 10
        assert set(verified.neurons) <= set(proposed.neurons)
        assert verified.base_model == proposed.base_model
    if "by_hand" in names:
        assert float(shown) < 1e-5, "float rounding"


def expanded(words: list[str]) -> list[str]:
    """As the shell would."""
    return [word for pattern in words for word in (sorted(glob.glob(pattern)) if "*" in pattern else [pattern])]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:80])
def test_command_parses(words: list[str], workplace: Path, unbuilt: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only reads scores is run."""
    monkeypatch.chdir(workplace)
    name, *options = words
    if name in TRAINER_COMMANDS:
        assert main(words).subcommand == name
    elif name in EXECUTED:
        main([name, *expanded(options)])
    else:
        seen = []
        add_options, _ = commands._COMMANDS[name]
        monkeypatch.setitem(commands._COMMANDS, name, (add_options, seen.append))
        main(words)
        assert len(seen) == 1


def test_every_line_of_a_shell_block_is_known() -> None:
    """A program that is neither ours nor tested here must be entered on purpose."""
    makefile = (ROOT / "Makefile").read_text()
    for words in lines():
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
        elif words[0].startswith("slurm/"):
            assert (ROOT / words[0]).is_file(), words
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), words
        elif words[0] == "lm_eval":
            assert 'eval = ["lm_eval[hf]' in (ROOT / "pyproject.toml").read_text(), words
        elif words[0] in ("hf", "tensorboard", "torchrun"):
            assert (Path(sys.executable).parent / words[0]).exists(), words
        elif words[0] == "curl":
            assert words[-1] == MODEL_URLS["original"], words
        else:
            assert words[0] in ("sparc3", "source", "export", "sbatch"), words


def test_what_is_fetched_is_what_the_config_without_a_network_reads() -> None:
    fetched = set()
    for words in lines("README.md"):
        if words[0] == "hf" and "--local-dir" in words:
            names = [word for word in words[3 : words.index("--local-dir")] if "." in word]
            fetched |= {f"{words[words.index('--local-dir') + 1]}/{name}" for name in names}
        elif words[0] == "curl":
            fetched.add(f"{words[words.index('--output-dir') + 1]}/{words[-1].rpartition('/')[2]}")
    wanted = set(re.findall(r"local/[\w./-]+", (ROOT / "configs/llama3_8b/local_files.yaml").read_text("utf-8")))
    wanted = {path.rstrip("/.,") for path in wanted} - {"local"}
    detoxify = {path for path in fetched if path.startswith("local/detoxify/original/")}
    assert {Path(path).name for path in detoxify} == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "toxic_original-c1212f89.ckpt",
    }  # fmt: skip
    assert wanted == fetched - detoxify | {"local/detoxify/original"}


YAMLS = [block for block in blocks("yaml") if not is_file(block)]


@pytest.mark.parametrize("block", YAMLS, ids=range(len(YAMLS)))
def test_yaml_block_lies_over_an_experiment(block: str, tmp_path: Path, unbuilt: None) -> None:
    fragment = tmp_path / "fragment.yaml"
    fragment.write_text(block)
    found = main(["predict", "--config", str(ROOT / TINY), "--config", str(fragment)]).config.predict
    if "callbacks+" in block:
        assert len(found.trainer.callbacks) == len(read(ROOT / TINY)["trainer"]["callbacks"]) + 1


# docs/results.md, field by field


def leaves(value: Any, path: str = "") -> list[str]:
    """Dotted paths of everything that is not itself an object."""
    if not isinstance(value, dict) or not value:
        return [path]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}" if path else key)]


def documented() -> list[str]:
    """The paths of the tables, names in capitals as wildcards."""
    section = re.search(r"field by field\n(.*?)^## ", PAGES["docs/results.md"], re.MULTILINE | re.DOTALL)
    assert section is not None
    paths = []
    for part in section[1].split("\n### ")[1:]:
        title, _, rest = part.partition("\n")
        cells = re.findall(r"^\| (`.*?) \|", rest, re.MULTILINE)
        names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
        paths += [f"{top}.{name}" for top in re.findall(r"`([\w.]+)`", title) or [""] for name in names]
    return [re.sub(r"\b[A-Z]+\b", "*", path.lstrip(".")) for path in paths]


def test_every_field_of_the_results_is_described_and_every_described_one_is_there(workplace: Path) -> None:
    results = read(workplace / "logs" / "tiny" / "version_0" / "experiment_results.json")
    found, known = leaves(results), documented()
    assert len(known) > 100

    def matches(path: str, pattern: str) -> bool:
        return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")

    assert [path for path in found if not any(matches(path, pattern) for pattern in known)] == []
    assert [pattern for pattern in known if not any(matches(path, pattern) for path in found)] == []


# docs/own_behaviour.md, typed from top to bottom


def some_words() -> str:
    """Every ninth word that the tiny model knows, as a list in YAML."""
    words = sorted({word for word in (ROOT / "configs/tiny/general.txt").read_text().split() if word.isalpha()})
    return f"[{', '.join(words[::9])}]"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """A directory with the files that the page names, one draw and few statistics where it has more."""
    home = tmp_path_factory.mktemp("own")
    for block in (block for language in ("python", "yaml") for block in blocks(language, OWN) if is_file(block)):
        # A random model says every word: a scorer of three would seldom find one, and no neuron would lower that.
        content = block.replace(OWN_MODEL, str(model_dir)).replace("[stupid, idiot, useless]", some_words())
        for large, small in SMALLER.items():
            content = content.replace(large, small)
        (home / block.split(maxsplit=2)[1]).write_text(content)
    words = (ROOT / "configs" / "tiny" / "general.txt").read_text().split()
    texts = [" ".join([str(start), *words[start : start + 60]]) for start in range(400)]
    (home / "ordinary.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    (home / "heldout.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts[:20]))
    shutil.copy(home / "ordinary.jsonl", home / "price.jsonl")
    for name in ("words.jsonl", "prompts.jsonl"):
        shutil.copy(ROOT / "configs" / "tiny" / name, home / name)
    rude = (home / "words.jsonl").read_text()
    (home / "other.jsonl").write_text(rude.replace("word-", "other-").replace("you", "they"))
    return home


def test_own_behaviour_runs_from_top_to_bottom(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    monkeypatch.syspath_prepend(str(own))
    typed = [sparc3_words(words) for words in lines(OWN)]
    assert [words[0] for words in typed] == [*["predict"] * 5, "select", "test"]
    for words in typed:
        options = ["--trainer.enable_progress_bar=false"] if words[0] in TRAINER_COMMANDS else []
        main([*expanded(words), *options])
    runs = own / "logs" / "mine"
    assert len(Recipe.load(own / "ten.json").neurons) == 10
    chosen = Recipe.load(runs / "version_0" / "pruned_neurons.json")
    assert len(chosen.neurons) == len(chosen.measured) > 0
    scorer = read(runs / "version_2" / "experiment_results.json")["baseline"]["toxicity"]
    assert (scorer["scorer"], list(scorer["attributes"])) == ("question", ["question"])
    weights = read(runs / "version_3" / "experiment_results.json")["selection"]
    assert 0 < weights["num_weights"] < weights["num_weights_scored"] * weights["sparsity"] + 1
    both = read(runs / "version_4" / "experiment_results.json")["behaviours"]["recipes"]
    assert {row["recipe"] for row in both} <= {"mine", "other"}
    assert {row["column"] for row in both} > {"insults/mean"}
    assert (runs / "version_5" / "pruned_eval.json").is_file()
