"""What works on a real language model? SmolLM2-135M-Instruct, prompts that people wrote, two scorers: docs/evidence.md.

    python benchmarks/real_model.py MODEL [--part alone|screened|one|final] [--draws N] [--controls N] [--json FILE]

`alone` compares proposers without the screen, `screened` with it, on one half of the prompts, with two completions each
and 20,000 tokens of text; `one` changes one part of ours at a time, without the screen and with it. `final` holds the
screen's neurons of each draw, random ones and the published rule's against the baseline on the other half, with four
completions and other paragraphs. Attribution computes in float32, screen and evaluation in bfloat16. Hours on two
cores; what is done is kept in logs/real_model, and a second call goes on.
MODEL may be the fixtures' realtext_lm, too: minutes.
"""

import argparse
import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from proposers import AUROC, BOTH, DOCUMENT, GRADIENT, ONE_PART, OURS, PROPOSERS, PUBLISHED, words_by_auroc
from real_model_inputs import FIXTURES, ROOT, Place, attributed, first_documents, place_of, write_inputs
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy import stats
from second_scorer import DIRECTORY, make_scorer
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparc3_lightning.data import RealToxicityPrompts, WikiText2
from sparc3_lightning.data.samples import LoadContext
from sparc3_lightning.data.tokens import encode
from sparc3_lightning.evaluation import Decoding
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import file_sha256
from sparc3_lightning.loops import Lines
from sparc3_lightning.metrics import DetoxifyScorer, JointScorer
from sparc3_lightning.models.load import context_length
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.passages import Passage
from sparc3_lightning.pruning.recipe import Neuron, Recipe
from sparc3_lightning.pruning.screen import Meter, ScreenData, Screened, choose, screen
from sparc3_lightning.pruning.select import scores_of, select_neurons, with_own_factors
from sparc3_lightning.report.terminal import print_predictions
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.statistics.compare import compare
from sparc3_lightning.trials.screening import KeptFigures, Screen, predict_effects
from sparc3_lightning.trials.store import TrialStore
from sparc3_lightning.trials.suppress import draw_controls
from sparc3_lightning.trials.trial import UNCHANGED, Trials, scaled_neurons
from sparc3_lightning.wording import percent

SCORER = FIXTURES / "toxicity_scorer"
SCREEN, FEW = Screen(num_candidates=150), 50
"""FEW candidates are taken of every proposer where proposers are compared with the screen."""
WEIGHTS = (10.0, 30.0, 100.0)
"""Of a price."""
MAX_PRICES = (0.005, 0.01, 0.02, 0.05)
"""Relative rise of perplexity at which a selection ends."""
FINAL_WEIGHT = 30.0
"""A deeper fall at 10 costs 2 % of perplexity: the aim allows 1 %."""
NUM_NEURONS, CURVE, FINAL_CURVE = 20, (5, 10, 20, 40, 60, 100), (10, 20, 40)
FINAL = OURS
DECODING = Decoding(max_new_tokens=30, temperature=0.7, top_p=0.9, num_completions=4)


class Bench:
    """Screens and evaluates what was proposed, all in bfloat16.

    Args:
        model: A Hugging Face directory.
        place: Where its inputs lie.
        final: Evaluate the untouched half, with more completions and text.
    """

    def __init__(self, model: str, place: Place, final: bool) -> None:
        self.home = place.home
        self.progress = Lines().watch
        self.lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.identity = {"weights": file_sha256(Path(model) / "model.safetensors"), "dtype": "torch.bfloat16"}
        context = LoadContext(self.tokenizer, context_length(self.lm), DECODING.max_new_tokens)
        prompts = RealToxicityPrompts(
            str(FIXTURES / "toxic_prompts/toxic_ge_0.9.jsonl"), threshold=0.9,
            part="evaluation" if final else "attribution",
        )  # fmt: skip
        text = place.home / ("final_text.txt" if final else "sweep_text.txt")
        scorer = JointScorer([DetoxifyScorer(checkpoint=str(path)) for path in (DIRECTORY, SCORER)])
        evaluator = Evaluator(
            scorer, DECODING if final else replace(DECODING, num_completions=2), ["disjoint"], window=512,
            batch_size=64, toxicity_protocol="custom",
        )  # fmt: skip
        self.trials = Trials(
            TrialStore(place.home / "trials"), self.identity, self.lm, self.tokenizer, evaluator,
            WikiText2(str(text)).load_rows(), prompts.load_prompts(context),
        )  # fmt: skip

    def evaluate(self, recipe: Recipe | None, factor: float | None = None) -> Evaluation:
        """The model with these neurons removed, or dampened by the recipe's factors or this one; or as it is."""
        done = UNCHANGED if recipe is None else scaled_neurons(recipe, factor)
        return self.trials.measure(done, self.progress).evaluation

    def chosen(self, proposed: Sequence[Neuron], run: Path, price_weight: float) -> list[Neuron]:
        """The candidates that the screen keeps, best first."""
        return _neurons(self.screened(proposed, run, price_weight), price_weight)

    def screened(
        self, proposed: Sequence[Neuron], run: Path, price_weight: float, removed: Sequence[Neuron] = ()
    ) -> list[Screened]:
        """What each candidate does alone to the words of a run, in a model without the neurons removed before."""
        with self._meter(proposed, run, removed) as (meter, kept):
            return screen(meter, proposed, max(CURVE), price_weight, kept.keep, self.progress)

    def within(self, chosen: Sequence[Neuron], run: Path, max_prices: Sequence[float]) -> list[list[Neuron]]:
        """For each price the longest beginning of the chosen whose joint price on the screen's text is not above."""
        found: list[list[Neuron]] = [[] for _ in max_prices]
        with self._meter(chosen, run) as (meter, _):
            for num in range(1, len(chosen) + 1):
                first = [*chosen[:num]]
                with apply_recipe(self.lm, Recipe(first), check_base=False):
                    price = math.expm1(meter.rise(min(layer for layer, _ in first)))
                for place, max_price in enumerate(max_prices):
                    if price <= max_price and len(found[place]) == num - 1:  # none before was above
                        found[place] = first
        return found

    @contextlib.contextmanager
    def _meter(
        self, neurons: Sequence[Neuron], run: Path, removed: Sequence[Neuron] = ()
    ) -> Iterator[tuple[Meter, KeptFigures]]:
        samples = json.loads((run / "samples.json").read_text(encoding="utf-8"))
        toxic, ordinary = (
            [Passage(torch.tensor(ids + word), len(ids)) for ids, word in samples[name]]
            for name in ("toxic", "ordinary")
        )
        length = context_length(self.lm)
        price = first_documents(self.home, partial(encode, self.tokenizer), SCREEN.num_price_tokens, length)
        data = ScreenData(toxic, ordinary, price)
        key = {
            **data.key(),
            **self.identity,
            "max_tokens": SCREEN.max_tokens,
            **({"removed": removed} if removed else {}),
        }
        with (
            KeptFigures(self.home / "trials", key) as kept,
            apply_recipe(self.lm, Recipe([*removed]), check_base=False) if removed else contextlib.nullcontext(),
        ):
            yield Meter(self.lm, data, sorted({layer for layer, _ in neurons}), SCREEN.max_tokens), kept


def proposed(contrast: ScoreSet, num: int = SCREEN.num_candidates) -> list[Neuron]:
    """The first candidates of a ranking."""
    return select_neurons(contrast, num, "global").neurons


def proposed_by(name: str, run: Path) -> list[Neuron]:
    """The first candidates of a proposer, or of both in turn."""
    if name == BOTH:
        pairs = zip(proposed_by(OURS, run), proposed_by(GRADIENT, run), strict=True)
        return [*dict.fromkeys(chain.from_iterable(pairs))]
    return proposed(PROPOSERS[name].contrast(run / "scores"))


def _neurons(found: Sequence[Screened], price_weight: float) -> list[Neuron]:
    return [one.candidate for one in choose(found, max(CURVE), price_weight)]


@dataclass
class Cell:
    """One selection.

    Attributes:
        name: Who proposed.
        is_screened: Whether the screen chose among what was proposed.
        recipe: Its neurons.
        factor: What is left of their outputs; None for the recipe's own factors.
    """

    name: str
    is_screened: bool
    recipe: Recipe
    factor: float | None = None

    def __str__(self) -> str:
        factor = [] if self.factor is None else [f"factor {self.factor:g}"]
        return ", ".join([self.name, *["screened"] * self.is_screened, f"k {len(self.recipe.neurons)}", *factor])


def alone_cells(contrasts: dict[str, ScoreSet]) -> Iterator[Cell]:
    """What each proposer names first, without the screen; AUROC also with AurA's factors, up to all neurons."""
    for name, contrast in contrasts.items():
        for num in (NUM_NEURONS, 100) if name == OURS or name in PUBLISHED else (NUM_NEURONS,):
            yield Cell(name, False, select_neurons(contrast, num, "global"))
    every = sum(shape[0] for shape in contrasts[AUROC].shapes.values())
    for num in (NUM_NEURONS, every):
        yield Cell("AurA, own factors", False, with_own_factors(select_neurons(contrasts[AUROC], num, "global")))


def screened_cells(bench: Bench, run: Path, contrasts: dict[str, ScoreSet]) -> Iterator[Cell]:
    """Our curves, by proposer, price and strength; then what the screen keeps of the others' candidates."""
    lrp, gradient, both = (proposed_by(name, run) for name in (OURS, GRADIENT, BOTH))

    def curve(
        name: str, chosen: Sequence[Neuron], nums: Sequence[int] = (NUM_NEURONS, 2 * NUM_NEURONS)
    ) -> Iterator[Cell]:
        yield from (Cell(name, True, Recipe([*chosen[:num]])) for num in nums if num <= len(chosen))

    ours = bench.chosen(lrp, run, FINAL_WEIGHT)
    yield from curve(OURS, ours, CURVE)
    predict(bench, run, contrasts, [OURS], SCREEN.num_candidates)
    yield from curve(f"{OURS}, two rounds", two_rounds(bench, run, lrp))
    dear = bench.chosen(lrp, run, WEIGHTS[0])
    yield from curve(f"{OURS}, price weight {WEIGHTS[0]:g}", dear, CURVE)
    for max_price, within in zip(MAX_PRICES, bench.within(dear, run, MAX_PRICES), strict=True):
        yield Cell(f"{OURS}, price weight {WEIGHTS[0]:g}, up to {max_price:.1%}", True, Recipe(within))
    yield from curve(GRADIENT, bench.chosen(gradient, run, FINAL_WEIGHT))
    yield from curve(BOTH, bench.chosen(both, run, FINAL_WEIGHT))
    yield from curve(f"{OURS}, price weight {WEIGHTS[-1]:g}", bench.chosen(lrp, run, WEIGHTS[-1]))
    for factor in (0.3, 0.6):
        yield Cell(OURS, True, Recipe(ours[:NUM_NEURONS]), factor)
    for name, contrast in contrasts.items():
        if chosen := bench.chosen(proposed(contrast, FEW), run, FINAL_WEIGHT):
            yield Cell(f"{name}, of {FEW}", True, Recipe(chosen[:NUM_NEURONS]))
    predict(bench, run, contrasts, list(contrasts), FEW)


def one_part_cells(bench: Bench, model: str, place: Place) -> Iterator[Cell]:
    """Ours with one part changed: target, what is explained, lengths."""
    words = attributed(model, place, 0, "methods")
    for name, (config, proposer) in ONE_PART.items():
        contrast = proposer.contrast(attributed(model, place, 0, config) / "scores")
        yield Cell(name, False, select_neurons(contrast, NUM_NEURONS, "global"))
        chosen = bench.chosen(proposed(contrast, FEW), words, FINAL_WEIGHT)
        yield Cell(f"{name}, of {FEW}", True, Recipe(chosen[:NUM_NEURONS]))


def two_rounds(bench: Bench, run: Path, candidates: Sequence[Neuron]) -> list[Neuron]:
    """The first 20, and then those that are worth it in the model without these."""
    first = bench.chosen(candidates, run, FINAL_WEIGHT)[:NUM_NEURONS]
    left = [neuron for neuron in candidates if neuron not in first]
    return first + _neurons(bench.screened(left, run, FINAL_WEIGHT, first), FINAL_WEIGHT)


def predict(bench: Bench, run: Path, contrasts: dict[str, ScoreSet], proposers: Sequence[str], num: int) -> None:
    """Print how well each contrast orders what removing the first `num` candidates of some proposers did."""
    found = {
        one.candidate: one
        for name in proposers
        for one in bench.screened(proposed(contrasts[name], num), run, FINAL_WEIGHT)
    }  # each once
    scores = {name: scores_of(contrast, [*found]) for name, contrast in contrasts.items()}
    print_predictions(asdict(predict_effects([*found.values()], scores, OURS, NUM_NEURONS)))  # type: ignore[arg-type]
    effects = [one.effect + one.confirmed for one in found.values()]
    difference = stats.bootstrap(
        (effects, scores[OURS], scores[GRADIENT]),
        lambda effect, ours, gradient: stats.spearmanr(ours, effect)[0] - stats.spearmanr(gradient, effect)[0],
        paired=True, vectorized=False, method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    print(f"Rank correlation, gradient less LRP: 95 % {difference.low:+.2f} to {difference.high:+.2f}")


def describe_published(bench: Bench, contrasts: dict[str, ScoreSet], sets: dict[str, ScoreSet]) -> None:
    """Print where the published rule's neurons lie, how many are ours, and what its sets differ in."""
    first = {name: {*select_neurons(contrasts[name], 100, "global").neurons} for name in (OURS, DOCUMENT)}
    last_layers = sum(layer >= bench.lm.config.num_hidden_layers - 4 for layer, _ in first[DOCUMENT])
    tokens, total = {}, {}
    for name, one in sets.items():
        tokens[name] = one.manifest["data"]["num_tokens"] / one.manifest["data"]["num_samples"]
        total[name] = sum(scores.double().abs().sum().item() for scores in one.scores.values()) / tokens[name]
    print(
        f"Of the published rule's first 100 neurons {last_layers} lie in the last four layers, and "
        f"{len(first[OURS] & first[DOCUMENT])} are among ours. A C4 sample has {tokens['c4'] / tokens['toxic']:.1f} "
        f"times the tokens of a prompt, with {total['c4'] / total['toxic']:.2f} times the relevance a token."
    )


def final_cells(bench: Bench, run: Path, draw: int, num_controls: int) -> Iterator[Cell]:
    """The screen's neurons of one draw; of the first one also at the default weight, and random ones of its layers."""
    candidates = proposed_by(FINAL, run)
    chosen = bench.chosen(candidates, run, FINAL_WEIGHT)
    words = json.loads((run / "samples.json").read_text(encoding="utf-8"))["toxic"]
    targets = {"target_ids": [word[0] for _, word in words]}
    Recipe(chosen[:NUM_NEURONS], options=targets).save(run)
    for num in FINAL_CURVE if draw == 0 else (NUM_NEURONS,):
        yield Cell(f"{FINAL}, draw {draw}", True, Recipe(chosen[:num]))
    if draw == 0:
        of_both = bench.chosen(proposed_by(BOTH, run), run, FINAL_WEIGHT)
        yield Cell(f"{BOTH}, draw {draw}", True, Recipe(of_both[: 2 * NUM_NEURONS]))
        dear = choose(bench.screened(candidates, run, WEIGHTS[0]), NUM_NEURONS, WEIGHTS[0])
        more = [f"{one.candidate} at {math.expm1(one.price or 0):.2%}" for one in dear if one.candidate not in chosen]
        print(f"At weight {WEIGHTS[0]:g} the first {NUM_NEURONS} also hold, alone: {', '.join(more)} of perplexity")
        of_dear = Recipe([one.candidate for one in dear])
        yield Cell(f"{FINAL}, draw {draw}, price weight {WEIGHTS[0]:g}", True, of_dear)
        width = bench.lm.config.intermediate_size
        for number, control in enumerate(draw_controls(Recipe(chosen[:NUM_NEURONS]), width, num_controls, 0)):
            yield Cell(f"random of the same layers, draw {number}", False, control)


def pooled(draws: Sequence[Sequence[Screened]]) -> list[Screened]:
    """Candidates of at least every second draw, by the words of all draws that measured them."""
    found: dict[Neuron, list[Screened]] = {}
    for one in chain.from_iterable(draws):
        found.setdefault(one.candidate, []).append(one)
    return [
        Screened(
            neuron, mean(one.effect for one in several), mean(one.confirmed for one in several),
            mean(one.ordinary for one in several), next((one.price for one in several if one.price is not None), None),
        )
        for neuron, several in found.items()
        if 2 * len(several) >= len(draws)
    ]  # fmt: skip


def last_cells(bench: Bench, runs: Sequence[Path], exchanged: Path, published: Path, responses: Path) -> Iterator[Cell]:
    """By words that the other scorer chose; the published rule, by the paper's prompts too; by all draws' words."""
    other = bench.chosen(proposed_by(FINAL, exchanged), exchanged, FINAL_WEIGHT)
    yield Cell(f"{FINAL}, words chosen by scorer B", True, Recipe(other[:NUM_NEURONS]))
    for scores, chosen_by in ((published, ""), (responses, ", prompts by responses")):
        for name, proposer in PUBLISHED.items():
            for num in (10, 100):
                yield Cell(f"{name}{chosen_by}", False, select_neurons(proposer.contrast(scores), num, "global"))
    found = pooled([bench.screened(proposed_by(FINAL, run), run, FINAL_WEIGHT) for run in runs])
    chosen = _neurons(found, FINAL_WEIGHT)
    for num in (NUM_NEURONS, len(chosen)):
        yield Cell(f"{FINAL}, words of all draws", True, Recipe(chosen[:num]))


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


def run(model: str, part: str, draws: int, num_controls: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Every cell with its figures, as they come."""
    if not DIRECTORY.exists():
        make_scorer()
    place = place_of(model)
    write_inputs(place, model)
    bench = Bench(model, place, part == "final")
    cells: Iterator[Cell]
    published = attributed(model, place, 0, "published") / "scores"
    if part == "final":
        runs = [attributed(model, place, draw, "words") for draw in range(draws)]
        of_draws = (final_cells(bench, run, draw, num_controls) for draw, run in enumerate(runs))
        exchanged = attributed(model, place, 0, "exchanged")
        responses = attributed(model, place, 0, "responses") / "scores"
        cells = chain(chain.from_iterable(of_draws), last_cells(bench, runs, exchanged, published, responses))
    elif part == "one":
        cells = one_part_cells(bench, model, place)
    else:
        methods = attributed(model, place, 0, "methods")
        contrasts = {name: proposer.contrast(methods / "scores") for name, proposer in PROPOSERS.items()}
        contrasts |= {name: proposer.contrast(published) for name, proposer in PUBLISHED.items()}
        contrasts[AUROC] = words_by_auroc(model, methods)
        describe_published(bench, contrasts, {name: ScoreSet.load(published / name) for name in ("c4", "toxic")})
        cells = alone_cells(contrasts) if part == "alone" else screened_cells(bench, methods, contrasts)
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
    parser.add_argument("--part", choices=("alone", "screened", "one", "final"), default="screened")
    parser.add_argument("--draws", type=int, default=5, help="draws of the attribution samples, of `final`")
    parser.add_argument("--controls", type=int, default=5, help="random draws, of `final`")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    target = args.json.resolve() if args.json else None
    rows, console = [], Console(width=190)
    with contextlib.chdir(ROOT):
        for cell, found in run(str(Path(args.model).resolve()), args.part, args.draws, args.controls):
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
