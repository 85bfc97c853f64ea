"""configs/smollm2_135m as one runs them, with a tiny model and files in each source's place; and without a network."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from sparc3_lightning.main import main
from sparc3_lightning.models.identity import base_model
from sparc3_lightning.models.load import build_model
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.runs import BRIEF, QUIET, ROOT, TINY, command, log_dir, read
from tests.shown import Type, refused

pytestmark = QUIET

SMOLLM2 = "configs/smollm2_135m"
PROMPTS = {"init_args": {"path": "configs/tiny/prompts.jsonl", "num_prompts": 8}}
SUPPRESS: dict[str, Any] = {
    "general": {
        f"general_seed{seed}": {"init_args": {"path": "configs/tiny/general.txt", "num_samples": 6, "length": 12}}
        for seed in range(3)
    },
    "behaviours": {"toxic": PROMPTS},
}
WORDS: dict[str, Any] = {
    "general": {"ordinary": {"init_args": {"path": "configs/tiny/general.txt"}}},
    "behaviours": {"toxic": {"init_args": {"path": "configs/tiny/words.jsonl", "num_samples": 16, "part": "all"}}},
    "price": {"wikitext2": {"init_args": {"path": "configs/tiny/general.txt"}}},
}


def local(home: Path, sets: dict[str, Any]) -> list[str]:
    """What lays the tiny model and files over a config: nothing but where things are and how many."""
    tiny = read(ROOT / "configs" / "tiny" / "words.yaml")["model"]
    content = {
        "trainer": {"accelerator": "cpu", "devices": 1},
        "model": {
            "model": None, "config": tiny["config"], "tokenizer": tiny["tokenizer"],
            "evaluator": {"init_args": {"scorer": tiny["evaluator"]["init_args"]["scorer"], "window": 32}},
        },
        "data": {
            **sets,
            "evaluation_prompts": PROMPTS,
            "evaluation_text": {"init_args": {"path": "configs/tiny/heldout.txt"}},
        },
    }  # fmt: skip
    file = home / "local.yaml"
    file.write_text(yaml.safe_dump(content))
    return ["--config", str(file), *BRIEF]


def test_the_published_rule_runs(tmp_path: Path) -> None:
    run = log_dir(command("predict", f"{SMOLLM2}/suppress.yaml", tmp_path, *local(tmp_path, SUPPRESS)))
    assert len(Recipe.load(run).neurons) == 10
    options = ScoreSet.load(run / "scores" / "toxic").manifest["options"]
    assert (options["target"], options["sign"]) == ("last_token_argmax", "abs")
    results = read(run / "experiment_results.json")
    assert list(results["baseline"]["perplexity"]) == ["disjoint"]
    assert (run / "report.html").exists()


def test_the_sweep_runs_after_the_words(tmp_path: Path) -> None:
    """Nothing but sizes is changed: every method of the file selects from scores of the same words."""
    home = local(tmp_path, WORDS)
    # The screen's size stands in a list, which no later file can reach into.
    words = read(ROOT / SMOLLM2 / "words.yaml")
    words["trainer"]["callbacks"][4]["init_args"] |= {
        "num_neurons": 4,
        "screen": {"num_candidates": 12, "price_weight": 0.1, "num_price_tokens": 200},
    }
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(words))
    sweep_text = (ROOT / SMOLLM2 / "sweep.yaml").read_text()
    (tmp_path / "sweep.yaml").write_text(sweep_text.replace("46080", "192"))
    sweep = ["--config", str(tmp_path / "sweep.yaml"), *home, f"--model.trials_dir={tmp_path / 'trials'}"]
    command("predict", tmp_path / "words.yaml", tmp_path, *home, sweep[-1])
    run = log_dir(command("predict", tmp_path / "words.yaml", tmp_path, *sweep))
    assert len([*(tmp_path / "trials").glob("screen-*.jsonl")]) == 1, "the sweep reads what the words have screened"
    table = pd.read_parquet(run / "sweep" / "table.parquet")
    cells = table[table["key"] != "baseline"]
    assert (table["status"] == "done").all(), table["error"].dropna().tolist()
    assert len(cells) == 19
    assert set(cells["key"]) == {
        "lrp", "lrp_signed", "gradient", "gradient_signed", "activation", "auroc", "value_vectors", "random",
    }  # fmt: skip
    tokens = {
        json.loads(path.read_text())["data"]["token_hash"]
        for path in (run / "scores").glob("*/toxic/manifest.json")
        if path.parent.parent.name in {"lrp", "gradient", "activation"}
    }
    assert tokens == {ScoreSet.load(run / "scores" / "toxic").manifest["data"]["token_hash"]}


def test_recovery_from_a_recipe_to_a_comparison(tmp_path: Path) -> None:
    """As docs/words.md has it: tune under a recipe, dampen, test each, compare."""
    base, tiny = tmp_path / "base", read(ROOT / TINY)["model"]
    tokenizer = AutoTokenizer.from_pretrained(ROOT / tiny["tokenizer"])
    tokenizer.save_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        dense = build_model(tiny["config"], len(tokenizer))
    dense.save_pretrained(base)
    recipe = Recipe(
        [(layer, index) for layer in range(3) for index in range(0, 64, 4)], base_model=base_model(dense, str(base))
    ).save(tmp_path / "recipe.json")
    general, heldout = ({"init_args": {"path": f"configs/tiny/{name}.txt"}} for name in ("general", "heldout"))
    general["init_args"] |= {"num_samples": 90}
    content = {
        "trainer": {"accelerator": "cpu", "max_steps": 40, "val_check_interval": 20},
        "data": {"block_length": 32, "train_batch_size": 8, "train_text": general, "val_text": heldout},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    options = ["--config", str(tmp_path / "tiny.yaml"), f"--model.model={base}", f"--model.recipe={recipe}"]
    recovered = log_dir(command("fit", f"{SMOLLM2}/recover.yaml", tmp_path, *options, "--model.lr=0.01")) / "model"
    main(["apply", "--recipe", str(recipe), "--factor", "0.3", "--output", str(tmp_path / "dampened")])
    as_saved = [*BRIEF, "--model.config=null", "--model.tokenizer=null", "--model.evaluator.init_args.num_draws=2000"]
    tested = [
        log_dir(command("test", TINY, tmp_path / one.name, *as_saved, f"--model.model={one}"))
        for one in (base, tmp_path / "dampened", recovered)
    ]
    main(["compare", *map(str, tested), "--output", str(tmp_path / "compared.json")])
    (table,) = [one for one in read(tmp_path / "compared.json") if one["title"] == "Tested"]
    rows = {tuple(row[:2]): row[2:] for row in table["rows"]}
    before, _, after = rows["perplexity, sliding", "reference"][0], *rows["perplexity, sliding", "measured"][1:]
    assert float(after) < 0.8 * float(before), "it has learnt the text's kind"
    missing, dampened, tuned = rows["perplexity, sliding", "change"]
    assert missing == "-"
    assert tuned.startswith("-")
    assert 0 < abs(float(dampened.strip("%"))) < abs(float(tuned.strip("%"))) / 2
    assert rows["perplexity, sliding", "p"][2] == "<0.001"


@pytest.mark.parametrize("names", [["suppress.yaml"], ["words.yaml"], ["words.yaml", "sweep.yaml"]])
def test_without_a_network_what_is_missing_is_named(
    names: list[str], type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold cache: one line, before any work."""
    for name in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{name}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    options = [word for name in names for word in ("--config", f"{SMOLLM2}/{name}")]
    shown = type_in("predict", *options, "--config", "configs/trainer/cpu.yaml")
    refused(shown, 1, "sparc3: error: ", "HuggingFaceTB/SmolLM2-135M", "HF_HOME")
