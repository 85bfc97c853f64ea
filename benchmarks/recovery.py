"""Removed, dampened, or removed and tuned again: what of the price comes back, what of the behaviour? docs/evidence.md.

    python benchmarks/recovery.py MODEL [--steps N] [--screened] [--json FILE]

Of signed LRP's first 20 neurons (draw 0 of benchmarks/real_model.py, without the screen): removed; dampened to 0.3 of
their output; and removed while the rest is tuned by `sparc3 fit` on configs/smollm2_135m/recover.yaml. The whole model
is tuned the same way, since that changes perplexity by itself. `--screened` adds those that the screen keeps (of
`real_model.py --part final`). Prompts, paragraphs and C4 documents that are measured have neither chosen nor trained
anything. All of it in float32. What is done is kept in logs/recovery, and a second call goes on.
MODEL is a Hugging Face directory of SmolLM2-135M-Instruct, or the fixtures' realtext_lm.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from losses import FIRST_UNSEEN, documents
from proposers import OURS, PROPOSERS
from real_model import DECODING, NUM_NEURONS, SCORER, figures
from real_model_inputs import FIXTURES, Place, attributed, place_of, write_inputs
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from second_scorer import DIRECTORY, make_scorer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparc3_lightning.data import RealToxicityPrompts, WikiText2
from sparc3_lightning.data.samples import LoadContext
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import file_sha256
from sparc3_lightning.loops import Lines
from sparc3_lightning.main import main as sparc3
from sparc3_lightning.metrics import DetoxifyScorer, JointScorer
from sparc3_lightning.metrics.measure import Column
from sparc3_lightning.models.load import context_length
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import select_neurons
from sparc3_lightning.trials.store import TrialStore
from sparc3_lightning.trials.trial import UNCHANGED, Intervention, Trials, scaled_neurons
from sparc3_lightning.wording import percent

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("configs/smollm2_135m/recover.yaml", "configs/trainer/cpu.yaml", "tests/configs/smollm2_recover_local.yaml")
FACTOR = 0.3
"""Of their output, that dampened neurons keep."""
NUM_STEPS, NUM_COMPLETIONS, NUM_DOCUMENTS, NUM_DRAWS = 200, 2, 60, 10_000
NUM_PROMPTS: int | None = None
"""None for all."""
BASE, TUNED = "whole model", "whole model, tuned"
REMOVED, DAMPENED, RECOVERED = "removed", f"at {FACTOR:g} of their output", "removed, the rest tuned"
C4_COLUMN = "perplexity/c4"

Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A model that is measured.

    Attributes:
        name: What it is called.
        directory: Where it lies.
        done: What is done to it meanwhile.
        against: Names of the rows before it that it is paired with.
    """

    name: str
    directory: str
    done: Intervention = UNCHANGED
    against: Sequence[str] = ()


@dataclass(frozen=True)
class Measured:
    """What was measured of a model: by paragraphs and prompts, and by C4 documents."""

    evaluation: Evaluation
    c4: Evaluation

    @property
    def columns(self) -> dict[str, Column]:
        """All of it, by name."""
        return {**self.evaluation.columns, C4_COLUMN: next(iter(self.c4.columns.values()))}

    def against(self, before: "Measured") -> Figures:
        """Each column before and after, with its change, interval and p, paired by prompt or window."""
        (perplexity,) = figures(before.c4, self.c4).values()
        return {**figures(before.evaluation, self.evaluation), C4_COLUMN: perplexity}


def trials_of(directory: str, home: Path, place: Place) -> tuple[Trials, Trials]:
    """What measures a model: by paragraphs and prompts that nothing was chosen by, and by C4 documents."""
    lm = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompts = RealToxicityPrompts(
        str(FIXTURES / "toxic_prompts/toxic_ge_0.9.jsonl"), threshold=0.9, part="evaluation", num_prompts=NUM_PROMPTS
    )
    evaluator = Evaluator(
        JointScorer([DetoxifyScorer(checkpoint=str(path)) for path in (DIRECTORY, SCORER)]),
        replace(DECODING, num_completions=NUM_COMPLETIONS), ["disjoint"], window=512, batch_size=64,
        toxicity_protocol="custom",
    )  # fmt: skip
    identity = {"weights": file_sha256(Path(directory) / "model.safetensors"), "dtype": "torch.float32"}
    measured_by = partial(Trials, TrialStore(home / "trials"), identity, lm, tokenizer, evaluator)
    context = LoadContext(tokenizer, context_length(lm), DECODING.max_new_tokens)
    return (
        measured_by(WikiText2(str(place.home / "final_text.txt")).load_rows(), prompts.load_prompts(context)),
        measured_by(documents()[FIRST_UNSEEN : FIRST_UNSEEN + NUM_DOCUMENTS], None),
    )


def tuned(model: str, home: Path, steps: int, name: str, recipe: Recipe | None) -> str:
    """The model after `sparc3 fit`, a recipe's neurons held at zero; made once."""
    name = f"{name}_{steps}"
    if made := sorted(home.glob(f"{name}/version_*/model")):
        return str(made[-1])
    options = [f"--config={path}" for path in CONFIGS]
    options += [f"--model.model={model}", f"--trainer.max_steps={steps}", "--data.val_text=null"]
    options += [f"--trainer.logger.init_args.save_dir={home}", f"--trainer.logger.init_args.name={name}"]
    if recipe is not None:
        home.mkdir(parents=True, exist_ok=True)
        options.append(f"--model.recipe={recipe.save(home / f'{name}.json')}")
    begun = time.perf_counter()
    directory = Path(str(sparc3(["fit", *options]).trainer.log_dir)) / "model"
    print(f"{name}: {(time.perf_counter() - begun) / steps:.2f} s a step, loading and saving included")
    return str(directory)


def recipes_of(model: str, place: Place, is_screened: bool) -> dict[str, Recipe]:
    """The first neurons of draw 0, without the screen; and those that it keeps."""
    run = attributed(model, place, 0, "words")
    found = {"unscreened": select_neurons(PROPOSERS[OURS].contrast(run / "scores"), NUM_NEURONS, "global")}
    return found | ({"screened": Recipe.load(run)} if is_screened else {})


def rows_of(recipes: Mapping[str, Recipe], model: str, tune: Callable[[str, Recipe | None], str]) -> Iterator[Row]:
    """The rows, in an order in which each comes after those that it is paired with; models are tuned on the way."""
    yield Row(BASE, model)
    for name, recipe in recipes.items():
        yield Row(f"{name}, {REMOVED}", model, scaled_neurons(recipe), [BASE])
    yield Row(TUNED, tune("whole", None), against=[BASE])
    for name, recipe in recipes.items():
        yield Row(f"{name}, {RECOVERED}", tune(name, recipe), against=[BASE, TUNED, f"{name}, {REMOVED}"])
    for name, recipe in recipes.items():
        yield Row(f"{name}, {DAMPENED}", model, scaled_neurons(recipe, FACTOR), [BASE])


def run(model: str, steps: int, is_screened: bool) -> Iterator[tuple[str, str, Figures]]:
    """Every pair of models, with its figures, as they come."""
    if not DIRECTORY.exists():
        make_scorer()
    place, home = place_of(model), ROOT / "logs/recovery" / file_sha256(Path(model) / "model.safetensors")[:8]
    write_inputs(place, model)
    recipes, tune = recipes_of(model, place, is_screened), partial(tuned, model, home, steps)
    found, loaded, trials = dict[str, Measured](), "", tuple[Trials, ...]()
    for row in rows_of(recipes, model, tune):
        if row.directory != loaded:
            loaded, trials = row.directory, trials_of(row.directory, home, place)
        found[row.name] = Measured(*(one.measure(row.done, Lines().watch).evaluation for one in trials))
        for name in row.against:
            pair = found[row.name].against(found[name])
            if name == TUNED:
                four = [found[one] for one in (BASE, row.name.replace(RECOVERED, REMOVED), TUNED, row.name)]
                for column in shown_columns(pair)[:-1]:
                    pair[column]["undone"] = undone(torch.stack([one.columns[column].by_row for one in four]))
            yield row.name, name, pair


def undone(rows: Tensor) -> tuple[float, float, float]:
    """The share of what removal did that tuning has undone, and its interval: a bootstrap over prompts or windows.

    Args:
        rows: A value a row by the whole model, without the neurons, and by both of these tuned. Of a perplexity the
            losses: its share is one of nats.

    Shape: rows (4, N).
    """
    whole, removed, tuned_whole, recovered = rows
    done, left = removed - whole, recovered - tuned_whole
    drawn = torch.randint(len(done), (NUM_DRAWS, len(done)), generator=torch.Generator().manual_seed(0))
    shares, ends = 1 - left[drawn].sum(1) / done[drawn].sum(1), rows.new_tensor([0.025, 0.975])
    low, high = shares.nanquantile(ends, interpolation="nearest").tolist()  # of few prompts a draw may hold no change
    return float(1 - left.sum() / done.sum()), low, high


def shown_columns(found: Figures) -> list[str]:
    """Perplexities, the main attribute of every scorer, and how much completions repeat themselves."""
    return [name for name in found if name.startswith("perplexity/") or name.endswith("toxicity/mean")] + ["uniqueness"]


def show(rows: Sequence[tuple[str, str, Figures]], console: Console) -> None:
    """Print a row a pair, a column a measure: its relative change, * where p < 0.01; then what came back."""
    names = shown_columns(rows[0][2])
    table = Table("model", "against", *names, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, against, found in rows:
        cells = (f"{percent(found[one]['relative'])}{'*' * (found[one]['p'] < 0.01)}" for one in names)
        table.add_row(name, against, *cells)
    console.print(table)
    for name, against, found in rows:
        if against == TUNED:
            shares = ("{} {:.0%} ({:.0%}, {:.0%})".format(one, *found[one]["undone"]) for one in names[:-1])
            console.print(f"Undone of what removal did, {name}, against {TUNED}: {', '.join(shares)}")


def main() -> None:
    """Run, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face directory")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="of the tuning (default: %(default)s)")
    parser.add_argument("--screened", action="store_true", help="also the neurons that the screen keeps")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    target, model = args.json.resolve() if args.json else None, str(Path(args.model).resolve())
    rows, console = list[tuple[str, str, Figures]](), Console(width=190)
    with contextlib.chdir(ROOT):
        for row in run(model, args.steps, args.screened):
            rows.append(row)
            if target:
                content = [{"name": name, "against": against, "figures": found} for name, against, found in rows]
                target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(rows, console)


if __name__ == "__main__":
    main()
