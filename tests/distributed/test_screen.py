"""A screen over several processes: the same candidates, figures and recipe as on one, and no weight changed by it."""

import csv
from pathlib import Path
from typing import Any

import pytest

from callbacks import PruningCallback, RelevanceCallback
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.samples import LoadContext, ReferenceSamples, TextSet
from sparc3_lightning.pruning.weight_recipe import WeightRecipe, load_recipe
from sparc3_lightning.trials.screening import SCREEN_FILE, Screen
from tests.distributed.jobs import FixedSamples, SameWeights, make_module, make_trainer, predict
from tests.launch import run_distributed
from tests.tiny import tiny_samples
from tests.tiny_files import save_tiny_model

CASES = [
    ("words", "replicated", 2),
    ("words", "replicated", 4),
    ("words", "sharded", 2),
    ("words, of single weights", "replicated", 2),
    ("words, of single weights", "sharded", 2),
    ("prompts", "replicated", 2),
    ("prompts", "sharded", 2),
]


class FixedWords(FixedSamples):
    """Samples that two tokens follow."""

    def load(self, context: LoadContext) -> ReferenceSamples:
        samples = super().load(context)
        return ReferenceSamples(
            samples.ids, samples.source, samples.sample_ids, following=tiny_samples([2] * len(samples), seed=7)
        )


class FixedPromptSamples(FixedSamples):
    """Samples that hold text: every id is a word's."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(ids=[ids.clamp(min=3) for ids in tiny_samples(seed=seed)])


class PriceText(TextSet):
    def load_rows(self) -> list[str]:
        return [" ".join(f"w{(row + 3 * k) % 40}" for k in range(15)) for row in range(6)]


def screen(model: str, measured_on: str, strategy: str, home: str) -> None:
    """Screen by words, or by completions of prompts that nothing is known to follow."""
    is_by_words, by_weight = measured_on.startswith("words"), measured_on.endswith("weights")
    source, target = (FixedWords, "next_token") if is_by_words else (FixedPromptSamples, "last_token_argmax")
    number: dict[str, Any] = {"sparsity": 0.05} if by_weight else {"num_neurons": 4}
    pruning = PruningCallback(**number, screen=Screen(num_candidates=40, price_weight=0.1, num_price_tokens=60))
    data = SparC3DataModule({"ordinary": source(0)}, {"toxic": source(1)}, price={"text": PriceText()}, batch_size=2)
    trainer = make_trainer(strategy, RelevanceCallback(), pruning, SameWeights(), default_root_dir=home)
    options = {"modules": "neurons", "sign": "signed", "target": target, "explain": "logprob"}
    options |= {"modules": "all", "granularity": "weight"} if by_weight else {}
    predict(trainer, make_module(model, **options), data)


def table(home: Path) -> dict[tuple[str, str], list[str]]:
    (path,) = home.rglob(SCREEN_FILE)
    with path.open() as file:
        return {(row[0], row[1]): row[2:] for row in list(csv.reader(file))[1:]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("screen")
    save_tiny_model(directory / "model")
    for measured_on in ("words", "words, of single weights", "prompts"):
        screen(str(directory / "model"), measured_on, "replicated", str(directory / measured_on))
    return directory


@pytest.mark.parametrize(("measured_on", "strategy", "world_size"), CASES)
def test_the_same_figures_and_recipe(measured_on: str, strategy: str, world_size: int, home: Path) -> None:
    own = home / f"{measured_on}-{strategy}-{world_size}"
    run_distributed(screen, world_size, str(home / "model"), measured_on, strategy, str(own))
    (alone,), (found,) = (list(path.rglob("pruned_*.json")) for path in (home / measured_on, own))
    ours, theirs = load_recipe(found), load_recipe(alone)
    assert ours.candidates == theirs.candidates
    if isinstance(ours, WeightRecipe) and isinstance(theirs, WeightRecipe):
        assert ours.sha256 == theirs.sha256
    wanted, rows = table(home / measured_on), table(own)
    assert {figures[-2] for figures in rows.values()} == {"toxicity" if measured_on == "prompts" else "nats"}
    assert rows.keys() == wanted.keys()
    for unit, figures in rows.items():
        for mine, other in zip(figures[1:4], wanted[unit][1:4], strict=True):
            assert float(mine) == pytest.approx(float(other), abs=1e-9)
        assert figures[-1] == wanted[unit][-1], "chosen at the same place"
    files = list(own.rglob("screen-*.jsonl"))
    assert len(files) == world_size
    measured = [line for file in files for line in file.read_text().splitlines() if '"effect"' in line]
    assert len(measured) == 40 * (world_size if strategy == "sharded" else 1), "dealt to the processes, or all together"
