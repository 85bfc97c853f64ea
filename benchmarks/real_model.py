"""What works on a real language model? SmolLM2-135M-Instruct, prompts that people wrote, two scorers: docs/evidence.md.

    python benchmarks/real_model.py MODEL [--part sweep|final] [--draws N] [--controls N] [--json FILE]

`sweep` compares proposers, with and without the screen, on one half of the prompts, with two completions each and
20,000 tokens of text. `final` holds the screen's neurons of each draw and random ones against the baseline on the other
half, with four completions and all the text. Attribution computes in float32, screen and evaluation in bfloat16. Hours
on two cores; what is done is kept in logs/real_model, and a second call goes on.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from second_scorer import DIRECTORY, make_scorer
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparc3_lightning.data import RealToxicityPrompts, WikiText2
from sparc3_lightning.data.samples import LoadContext
from sparc3_lightning.data.tokens import encode
from sparc3_lightning.evaluation import Decoding
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import file_sha256, write_json
from sparc3_lightning.loops import Lines
from sparc3_lightning.main import main as sparc3
from sparc3_lightning.metrics import DetoxifyScorer, JointScorer
from sparc3_lightning.models.load import context_length
from sparc3_lightning.pruning.passages import Passage
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.screen import Meter, ScreenData, Screened, choose, screen
from sparc3_lightning.pruning.select import scores_of, select_neurons
from sparc3_lightning.report.terminal import print_predictions
from sparc3_lightning.scoring.combine import MethodScores, Penalty
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.statistics.compare import compare
from sparc3_lightning.trials.screening import KeptFigures, Screen, predict_effects, price_passages
from sparc3_lightning.trials.store import TrialStore
from sparc3_lightning.trials.suppress import draw_controls
from sparc3_lightning.trials.trial import UNCHANGED, Trials, scaled_neurons
from sparc3_lightning.wording import percent

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT.parent / "shared/fixtures"
CONFIGS, HOME = ROOT / "tests/configs", ROOT / "logs/real_model"
SCORER = FIXTURES / "toxicity_scorer"
SCREEN = Screen(num_candidates=150)
WEIGHTS = (10.0, 30.0, 100.0)
"""Of a price."""
FINAL_WEIGHT = 30.0
"""Chosen in the sweep: a lower price than at 10 and no smaller fall."""
NUM_NEURONS, CURVE = 20, (5, 10, 20, 40, 60, 100)
SWEEP_PARAGRAPHS = 150
"""Of the held-out text: about 20,000 tokens."""
DECODING = Decoding(max_new_tokens=30, temperature=0.7, top_p=0.9, num_completions=4)


@dataclass(frozen=True)
class Proposer:
    """Who names candidates.

    Attributes:
        key: Of the method's scores.
        general: Sets that the words are contrasted with; none for no contrast.
        penalty: See `differential`.
    """

    key: str
    general: tuple[str, ...] = ("ordinary",)
    penalty: Penalty = "abs"

    def contrast(self, scores: Path) -> ScoreSet:
        """Its ranking of all neurons, lowest first.

        Args:
            scores: Where a run has written scores.
        """
        home = scores if self.key == "lrp_signed" else scores / self.key
        if (home / "manifest.json").exists():  # one ranking, not a set's scores
            return ScoreSet.load(home)
        found = MethodScores({name: ScoreSet.load(home / name) for name in (*self.general, "toxic")})
        if self.general:
            return found.contrast(self.general, "toxic", 1.0, self.penalty)
        alone = found.sets["toxic"]
        return ScoreSet({name: -alone.scores[name] for name in alone.shapes}, alone.manifest)


OURS, PUBLISHED = "words, signed LRP", "published"
PROPOSERS = {
    OURS: Proposer("lrp_signed"),
    "same, unsigned": Proposer("lrp", penalty="raw"),
    "same, against C4": Proposer("lrp_signed", ("c4",)),
    "same, no contrast": Proposer("lrp_signed", ()),
    "words, signed gradient": Proposer("gradient_signed"),
    "words, activation": Proposer("activation", penalty="raw"),
    "words, AUROC": Proposer("auroc"),
    "value vectors": Proposer("value_vectors"),
    "random": Proposer("random"),
}


def write_inputs() -> None:
    """Split the fixtures so that words, attribution, price and evaluation share no row."""
    prompts, documents = FIXTURES / "toxic_prompts", FIXTURES / "c4_sample/c4.jsonl"
    evaluated = {json.loads(line)["id"] for line in _lines(prompts / "toxic_ge_0.9.jsonl")}
    words = [line for line in _lines(prompts / "rtp_sample.jsonl") if json.loads(line)["id"] not in evaluated]
    text = _lines(FIXTURES / "wikitext2/heldout.txt")
    parts = {
        "words.jsonl": words,
        "general.jsonl": _lines(documents)[:640],
        "price.jsonl": _lines(documents)[640:1000],
        "sweep_text.txt": text[:SWEEP_PARAGRAPHS],
    }
    HOME.mkdir(parents=True, exist_ok=True)
    for name, lines in parts.items():
        (HOME / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def attributed(model: str, draw: int, config: str) -> Path:
    """Attribute one draw of the samples by a config, unless that was done before.

    Returns:
        The run's directory: `scores`, and `samples.json` with the words.
    """
    home = HOME / f"{config}_{draw}" / "version_0"
    if (home / "samples.json").exists():
        return home
    sets = {
        "words": ["general.ordinary", "behaviours.toxic"],
        "methods": ["general.ordinary", "general.c4", "behaviours.toxic"],
        "exchanged": ["general.ordinary", "behaviours.toxic"],
        "published": ["general.c4"],
    }[config]
    options = [f"--config={CONFIGS / 'real_model.yaml'}"]
    options += [f"--config={CONFIGS / 'real_model'}_{config}.yaml"] if config in ("methods", "published") else []
    if config == "exchanged":
        options += [f"--data.{name}.init_args.scorer.init_args.checkpoint={DIRECTORY}" for name in sets]
        options += ["--data.general.ordinary.init_args.threshold=0.25"]  # it gives few texts less than 0.1
    options += [f"--data.{name}.init_args.seed={draw}" for name in sets]
    options += [f"--model.model={model}", f"--trainer.logger.init_args.name={config}_{draw}"]
    module = sparc3(["predict", *options, "--trainer.logger.init_args.version=0"]).model
    samples = {
        name: [[ids.tolist(), word.tolist()] for ids, word in zip(found.ids, found.following, strict=False)]
        for name, found in module.data.reference_samples.items()
    }
    write_json(home / "samples.json", samples)
    return home


class Bench:
    """Screens and evaluates what was proposed, all in bfloat16.

    Args:
        model: A Hugging Face directory.
        final: Evaluate the untouched half, with more completions and text.
    """

    def __init__(self, model: str, final: bool) -> None:
        self.progress = Lines().watch
        self.lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.identity = {"weights": file_sha256(Path(model) / "model.safetensors"), "dtype": "torch.bfloat16"}
        context = LoadContext(self.tokenizer, context_length(self.lm), DECODING.max_new_tokens)
        prompts = RealToxicityPrompts(
            str(FIXTURES / "toxic_prompts/toxic_ge_0.9.jsonl"), threshold=0.9,
            part="evaluation" if final else "attribution",
        )  # fmt: skip
        text = FIXTURES / "wikitext2/heldout.txt" if final else HOME / "sweep_text.txt"
        scorer = JointScorer([DetoxifyScorer(checkpoint=str(path)) for path in (DIRECTORY, SCORER)])
        evaluator = Evaluator(
            scorer, DECODING if final else replace(DECODING, num_completions=2), ["disjoint"], window=512,
            batch_size=64, toxicity_protocol="custom",
        )  # fmt: skip
        self.trials = Trials(
            TrialStore(HOME / "trials"), self.identity, self.lm, self.tokenizer, evaluator,
            WikiText2(str(text)).load_rows(), prompts.load_prompts(context),
        )  # fmt: skip

    def evaluate(self, recipe: Recipe | None, factor: float = 0.0) -> Evaluation:
        """The model without these neurons, or as it is."""
        done = UNCHANGED if recipe is None else scaled_neurons(recipe, factor)
        return self.trials.measure(done, self.progress).evaluation

    def chosen(self, contrast: ScoreSet, run: Path, price_weight: float) -> list[tuple[int, int]]:
        """The neurons that the screen keeps of the first candidates, best first."""
        found = self.screened(contrast, run, price_weight)
        return [one.neuron for one in choose(found, max(CURVE), price_weight)]

    def screened(self, contrast: ScoreSet, run: Path, price_weight: float) -> list[Screened]:
        """What each of the first candidates does alone to the words of a run."""
        samples = json.loads((run / "samples.json").read_text(encoding="utf-8"))
        toxic, ordinary = (
            [Passage(torch.tensor(ids + word), len(ids)) for ids, word in samples[name]]
            for name in ("toxic", "ordinary")
        )
        rows = [json.loads(line)["text"] for line in _lines(HOME / "price.jsonl")]
        encoded, length = partial(encode, self.tokenizer), context_length(self.lm)
        data = ScreenData(toxic, ordinary, price_passages("c4", rows, encoded, SCREEN.num_price_tokens, length))
        candidates = select_neurons(contrast, SCREEN.num_candidates, "global").neurons
        with KeptFigures(HOME / "trials", {**data.key(), **self.identity, "max_tokens": SCREEN.max_tokens}) as kept:
            meter = Meter(self.lm, data, sorted({layer for layer, _ in candidates}), SCREEN.max_tokens)
            return screen(meter, candidates, max(CURVE), price_weight, kept.keep, self.progress)


@dataclass
class Cell:
    """One selection.

    Attributes:
        name: Who proposed.
        is_screened: Whether the screen chose among what was proposed.
        recipe: Its neurons.
        factor: What is left of their outputs.
    """

    name: str
    is_screened: bool
    recipe: Recipe
    factor: float = 0.0

    def __str__(self) -> str:
        words = [self.name, *["screened"] * self.is_screened, f"k {len(self.recipe.neurons)}"]
        return ", ".join([*words, *[f"factor {self.factor:g}"] * (self.factor > 0)])


def sweep_cells(bench: Bench, run: Path, published: ScoreSet) -> Iterator[Cell]:
    """Each proposer without the screen; our curves by the price's weight; then the others with the screen."""
    contrasts = {name: proposer.contrast(run / "scores") for name, proposer in PROPOSERS.items()} | {
        PUBLISHED: published
    }
    every, curves = contrasts.copy(), {OURS: CURVE, PUBLISHED: (10, NUM_NEURONS, 100)}
    predict(bench, run, every, [OURS])
    for name, contrast in contrasts.items():
        for num in curves.get(name, (NUM_NEURONS,)):
            yield Cell(name, False, select_neurons(contrast, num, "global"))
    for weight in WEIGHTS:
        chosen = bench.chosen(contrasts[OURS], run, weight)
        for num in (num for num in CURVE if num <= len(chosen)):
            yield Cell(f"{OURS}, price weight {weight:g}", True, Recipe(chosen[:num]))
    ours = bench.chosen(contrasts.pop(OURS), run, FINAL_WEIGHT)
    for factor in (0.3, 0.6):
        yield Cell(OURS, True, Recipe(ours[: 2 * NUM_NEURONS]), factor)
    for name, contrast in contrasts.items():
        chosen = bench.chosen(contrast, run, FINAL_WEIGHT)[:NUM_NEURONS]
        if chosen:
            yield Cell(name, True, Recipe(chosen))
    predict(bench, run, every, list(every))


def predict(bench: Bench, run: Path, contrasts: dict[str, ScoreSet], proposers: Sequence[str]) -> None:
    """Print how well each contrast orders what removing the candidates of some proposers did."""
    found = {
        one.neuron: one for name in proposers for one in bench.screened(contrasts[name], run, FINAL_WEIGHT)
    }  # each once
    scores = {name: scores_of(contrast, [*found]) for name, contrast in contrasts.items()}
    print_predictions(asdict(predict_effects([*found.values()], scores, OURS, NUM_NEURONS)))  # type: ignore[arg-type]


def final_cells(bench: Bench, run: Path, draw: int, num_controls: int) -> Iterator[Cell]:
    """The screen's neurons of one draw; of the first one also at the default weight, and random ones of its layers."""
    chosen = bench.chosen(PROPOSERS[OURS].contrast(run / "scores"), run, FINAL_WEIGHT)
    words = json.loads((run / "samples.json").read_text(encoding="utf-8"))["toxic"]
    targets = {"target_ids": [word[0] for _, word in words]}
    Recipe(chosen[:NUM_NEURONS], options=targets).save(run)
    for num in (10, NUM_NEURONS, 2 * NUM_NEURONS) if draw == 0 else (NUM_NEURONS,):
        yield Cell(f"{OURS}, draw {draw}", True, Recipe(chosen[:num]))
    if draw == 0:
        dear = bench.chosen(PROPOSERS[OURS].contrast(run / "scores"), run, WEIGHTS[0])
        for num in (10, NUM_NEURONS):
            yield Cell(f"{OURS}, draw {draw}, price weight {WEIGHTS[0]:g}", True, Recipe(dear[:num]))
        width = bench.lm.config.intermediate_size
        for number, control in enumerate(draw_controls(Recipe(chosen[:NUM_NEURONS]), width, num_controls, 0)):
            yield Cell(f"random of the same layers, draw {number}", False, control)


def pooled(draws: Sequence[Sequence[Screened]]) -> list[Screened]:
    """Candidates of at least every second draw, by the words of all draws that measured them."""
    found: dict[tuple[int, int], list[Screened]] = {}
    for one in chain.from_iterable(draws):
        found.setdefault(one.neuron, []).append(one)
    return [
        Screened(
            neuron, mean(one.effect for one in several), mean(one.confirmed for one in several),
            mean(one.ordinary for one in several), next((one.price for one in several if one.price is not None), None),
        )
        for neuron, several in found.items()
        if 2 * len(several) >= len(draws)
    ]  # fmt: skip


def last_cells(bench: Bench, runs: Sequence[Path], exchanged: Path) -> Iterator[Cell]:
    """Chosen by the words of all draws together; and by words that the other scorer has chosen."""
    contrast = PROPOSERS[OURS].contrast
    found = pooled([bench.screened(contrast(run / "scores"), run, FINAL_WEIGHT) for run in runs])
    chosen = [one.neuron for one in choose(found, max(CURVE), FINAL_WEIGHT)]
    for num in (NUM_NEURONS, 2 * NUM_NEURONS, 3 * NUM_NEURONS):
        yield Cell(f"{OURS}, words of all draws", True, Recipe(chosen[:num]))
    other = bench.chosen(contrast(exchanged / "scores"), exchanged, FINAL_WEIGHT)
    yield Cell(f"{OURS}, words chosen by scorer B", True, Recipe(other[:NUM_NEURONS]))


def floor(before: Evaluation) -> float:
    """Scorer B's mean over completions of the unchanged model that scorer A finds harmless: below 0.1."""
    assert before.toxicity is not None
    scores = [item.scores for row in before.toxicity.prompts for item in row.completions]
    by_b, by_a = [name for name in scores[0] if name.rpartition("/")[2] == "toxicity"]
    return mean(one[by_b] for one in scores if one[by_a] < 0.1)


def figures(before: Evaluation, cell: Evaluation) -> dict[str, Any]:
    """Each column before and after, its change, interval and p."""
    return {
        name: {
            "before": change.before, "after": change.after, "relative": change.relative, "p": change.p_value,
            "interval": [change.interval.low, change.interval.high],
        }
        for name, change in compare(before.columns, cell.columns).items()
    }  # fmt: skip


def run(model: str, final: bool, draws: int, num_controls: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Every cell with its figures, as they come."""
    if not DIRECTORY.exists():
        make_scorer()
    write_inputs()
    bench = Bench(model, final)
    cells: Iterator[Cell]
    if final:
        runs = [attributed(model, draw, "words") for draw in range(draws)]
        of_draws = (final_cells(bench, run, draw, num_controls) for draw, run in enumerate(runs))
        exchanged = attributed(model, 0, "exchanged")
        cells = chain(chain.from_iterable(of_draws), last_cells(bench, runs, exchanged))
    else:
        published = attributed(model, 0, "published") / "scores"
        sets = MethodScores({name: ScoreSet.load(published / name) for name in ("c4", "toxic")})
        cells = sweep_cells(bench, attributed(model, 0, "methods"), sets.contrast(["c4"], "toxic"))
    before = bench.evaluate(None)
    print(
        f"Scorer B gives {floor(before):.3f} to completions of the unchanged model that scorer A gives less than 0.1."
    )
    for cell in cells:
        yield cell, figures(before, bench.evaluate(cell.recipe, cell.factor))


def show(rows: Sequence[tuple[Cell, dict[str, Any]]], console: Console) -> None:
    """Print a row a cell, a column a measure: its relative change, * where p < 0.01."""
    names = [name for name in rows[0][1] if name.endswith(("/mean", "disjoint")) or name == "uniqueness"]
    table = Table("selection", *names, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for cell, found in rows:
        table.add_row(str(cell), *(f"{percent(found[n]['relative'])}{'*' * (found[n]['p'] < 0.01)}" for n in names))
    console.print(table)


def main() -> None:
    """Run, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face directory of SmolLM2-135M-Instruct")
    parser.add_argument("--part", choices=("sweep", "final"), default="sweep")
    parser.add_argument("--draws", type=int, default=5, help="draws of the attribution samples, of `final`")
    parser.add_argument("--controls", type=int, default=5, help="random draws, of `final`")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    target = args.json.resolve() if args.json else None
    rows, console = [], Console(width=190)
    with contextlib.chdir(ROOT):
        for cell, found in run(str(Path(args.model).resolve()), args.part == "final", args.draws, args.controls):
            rows.append((cell, found))
            show(rows[-1:], console)
            if target:
                content = [
                    {"name": str(one), "neurons": one.recipe.neurons, "factor": one.factor, "figures": columns}
                    for one, columns in rows
                ]
                target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(rows, console)


if __name__ == "__main__":
    main()
