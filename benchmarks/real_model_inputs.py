"""What benchmarks/real_model.py reads: fixtures, split so that no part shares a row with another, and attribution."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from second_scorer import DIRECTORY

from sparc3_lightning.files import file_sha256, write_json
from sparc3_lightning.main import main as sparc3
from sparc3_lightning.pruning.passages import Passage
from sparc3_lightning.trials.screening import PRICE_WINDOW

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT.parent / "shared/fixtures"
CONFIGS = ROOT / "tests/configs"
NUM_DRAWS = 5
SWEEP_PARAGRAPHS, FINAL_PARAGRAPHS = 150, 300
"""Of the held-out text: about 20,000 tokens; the final table reads the next, about 38,000."""


@dataclass(frozen=True)
class Place:
    """Where a model's inputs and figures lie, and which rows of C4 it may read.

    Attributes:
        home: The directory.
        general: First row to attribute, and the one after the last.
        price: The same of those to tell a price by.
    """

    home: Path
    general: tuple[int, int] = (0, 640)
    price: tuple[int, int] = (640, 1000)


def place_of(model: str) -> Place:
    """Of the model that was trained on the first 1,000 rows all others: its draws and its price share rows."""
    if Path(model).name == "realtext_lm":
        return Place(ROOT / "logs/realtext_words", (1000, 1480), (1000, 1480))
    return Place(ROOT / "logs/real_model")


def write_inputs(place: Place, model: str) -> None:
    """Split the fixtures: words, attribution, price and evaluation share no row, nor one draw's words another's.

    Raises:
        SystemExit: What lies there was measured on another model.
    """
    weights = {"weights": file_sha256(Path(model) / "model.safetensors")}
    known = place.home / "model.json"
    if known.exists() and json.loads(known.read_text(encoding="utf-8")) != weights:
        raise SystemExit(f"{place.home} holds what was measured on other weights than {model}'s: move it away.")
    prompts, documents = FIXTURES / "toxic_prompts", FIXTURES / "c4_sample/c4.jsonl"
    evaluated = {json.loads(line)["id"] for line in _lines(prompts / "toxic_ge_0.9.jsonl")}
    words = [line for line in _lines(prompts / "rtp_sample.jsonl") if json.loads(line)["id"] not in evaluated]
    text = _lines(FIXTURES / "wikitext2/heldout.txt")
    parts = {f"words_{draw}.jsonl": words[draw::NUM_DRAWS] for draw in range(NUM_DRAWS)} | {
        "words.jsonl": words,
        "general.jsonl": _lines(documents)[slice(*place.general)],
        "price.jsonl": _lines(documents)[slice(*place.price)],
        "sweep_text.txt": text[:SWEEP_PARAGRAPHS],
        "final_text.txt": text[SWEEP_PARAGRAPHS:][:FINAL_PARAGRAPHS],
    }
    place.home.mkdir(parents=True, exist_ok=True)
    write_json(known, weights)
    for name in ("", "_methods", "_lengths", "_published", "_responses"):
        config = (CONFIGS / f"real_model{name}.yaml").read_text(encoding="utf-8")
        parts[f"real_model{name}.yaml"] = config.replace("logs/real_model", str(place.home)).splitlines()
    for name, lines in parts.items():
        (place.home / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def attributed(model: str, place: Place, draw: int, config: str) -> Path:
    """Attribute one draw of the samples by a config, unless that was done before.

    Returns:
        The run's directory: `scores`, and `samples.json` with the words.
    """
    home = place.home / f"{config}_{draw}" / "version_0"
    if (home / "samples.json").exists():
        return home
    sets = {
        "words": ["general.ordinary", "behaviours.toxic"],
        "methods": ["general.ordinary", "general.c4", "behaviours.toxic"],
        "lengths": ["general.ordinary", "general.any_length", "general.c4", "behaviours.toxic"],
        "argmax": ["general.ordinary", "behaviours.toxic"],
        "logit": ["general.ordinary", "behaviours.toxic"],
        "exchanged": ["general.ordinary", "behaviours.toxic"],
        "published": ["general.c4"],
        "responses": ["general.c4"],
    }[config]
    overlays = {
        "methods": ["methods"], "lengths": ["lengths"], "published": ["published"],
        "responses": ["published", "responses"],
    }  # fmt: skip
    options = [f"--config={place.home / 'real_model.yaml'}"]
    options += [f"--config={place.home / 'real_model'}_{name}.yaml" for name in overlays.get(config, [])]
    options += {"argmax": ["--model.target=last_token_argmax"], "logit": ["--model.explain=logit"]}.get(config, [])
    if config == "exchanged":
        options += [f"--data.{name}.init_args.scorer.init_args.checkpoint={DIRECTORY}" for name in sets]
        options += ["--data.general.ordinary.init_args.threshold=0.25"]  # it gives few texts less than 0.1
    if config != "exchanged" and "behaviours.toxic" in sets:
        options += [f"--data.behaviours.toxic.init_args.path={place.home}/words_{draw}.jsonl"]
    options += [f"--data.{name}.init_args.seed={draw}" for name in sets]
    if "general.c4" in sets and place.general[1] - place.general[0] < 640:
        options += ["--data.general.c4.init_args.num_seeds=1"]  # its draws overlap
    options += [f"--model.model={model}", f"--trainer.logger.init_args.name={config}_{draw}"]
    module = sparc3(["predict", *options, "--trainer.logger.init_args.version=0"]).model
    samples = {
        name: [[ids.tolist(), word.tolist()] for ids, word in zip(found.ids, found.following, strict=False)]
        for name, found in module.data.reference_samples.items()
    }
    write_json(home / "samples.json", samples)
    return home


def first_documents(home: Path, encode: Callable[[str], list[int]], num_tokens: int, max_length: int) -> list[Passage]:
    """Windows of the first documents (C4's lie in no order), each read alone, until so many tokens are scored.

    Raises:
        SystemExit: There are fewer.
    """
    width = min(PRICE_WINDOW, max_length)
    rows = [json.loads(line)["text"] for line in _lines(home / "price.jsonl")]
    windows = [one for row in rows for one in torch.tensor(encode(row)).split(width) if len(one) > 1]
    ends = accumulate(len(one) - 1 for one in windows)
    cut = [one[: max(0, len(one) + num_tokens - end)] for one, end in zip(windows, ends, strict=True)]
    found = [Passage(one) for one in cut if len(one) > 1]
    if sum(one.num_scored for one in found) < num_tokens:
        raise SystemExit(f"{home / 'price.jsonl'} has fewer than {num_tokens} tokens to tell a price by.")
    return found
