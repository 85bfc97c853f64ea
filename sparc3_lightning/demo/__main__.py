"""`python -m sparc3_lightning.demo`: corpus, model, scorer, main job, and what came of it. `make demo` runs it."""

import argparse
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from transformers.utils import logging

from sparc3_lightning.demo.corpus import Sizes, texts_of, train_bpe, write_corpus
from sparc3_lightning.demo.outcome import print_completions, print_price, unknown_words
from sparc3_lightning.demo.scorer import ScorerTraining, heldout_auc, train_scorer
from sparc3_lightning.demo.stage import Stage, bar
from sparc3_lightning.files import load_yaml, read_json
from sparc3_lightning.main import main as sparc3
from sparc3_lightning.models.hf_directory import write_tokenizer
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.report.terminal import print_summary
from sparc3_lightning.wording import number

LOGS = Path("logs/demo")
CORPUS, FIT, SCORER, SUPPRESS = (LOGS / name for name in ("corpus", "fit", "scorer", "suppress"))
FIT_CONFIG, SUPPRESS_CONFIG = Path("configs/demo/fit.yaml"), Path("configs/demo/suppress.yaml")
_RESULTS = "experiment_results.json"
_EVIDENCE = (
    "The world of this demo is small and generated: it shows how the method works, not how well. Corpus and fit were "
    f"chosen without a look at the evaluation ({FIT_CONFIG} has the rule). How far the figures move with the seed of "
    "the fit: python benchmarks/demo_seeds.py"
)


@dataclass(frozen=True)
class Demo:
    """What the demo is made of; the configs in `configs/demo/` hold the rest.

    Attributes:
        sizes: How much corpus.
        vocabulary: Tokens of the language model's tokenizer.
        scorer: How the scorer is trained.
        fit_options: More options for `sparc3 fit`.
        predict_options: More options for `sparc3 predict`.
    """

    sizes: Sizes = Sizes()  # noqa: RUF009 - frozen
    vocabulary: int = 768
    scorer: ScorerTraining = ScorerTraining()  # noqa: RUF009 - frozen
    fit_options: tuple[str, ...] = ()
    predict_options: tuple[str, ...] = ()


def make_corpus(demo: Demo, console: Console) -> bool:
    """Write texts and tokenizer, unless they are there: then True."""
    context = load_yaml(FIT_CONFIG.read_text("utf-8"), str(FIT_CONFIG))["model"]["config"]["max_position_embeddings"]

    def make() -> dict[str, Any]:
        with bar("write", "rows", demo.sizes.num_rows, console) as advance:
            num_rows = write_corpus(CORPUS, sizes=demo.sizes, advance=advance)["num_rows"]
        texts = texts_of(CORPUS / "train.jsonl")
        with bar("tokenizer", "texts", len(texts), console) as advance:
            tokenizer = train_bpe(_counted(texts, advance), demo.vocabulary, context)
        write_tokenizer(tokenizer, CORPUS / "tokenizer")
        return {"made": str(CORPUS), "num_rows": num_rows}

    # The grammar is code: its files are the inputs.
    code = [Path(__file__).with_name(f"{name}.py") for name in ("corpus", "grammar", "vocabulary")]
    options = {**asdict(demo.sizes), "vocabulary": demo.vocabulary, "context": context}
    outcome, reused = Stage("corpus", CORPUS, tuple(code), options).run(make, console)
    num_rows = outcome["num_rows"]
    console.print(
        f"  {num_rows['train']:,} rows to train on; {num_rows['general']} general documents and "
        f"{num_rows['prompts_train']} rude prompts to attribute; {num_rows['prompts_evaluation']} rude prompts to "
        "evaluate on, of new combinations of known halves of frames, and of new nouns"
    )
    return reused


def _counted(texts: Iterable[str], advance: Callable[[], None]) -> Iterator[str]:
    for text in texts:
        yield text
        advance()


def fit_model(demo: Demo, console: Console) -> bool:
    """Train the language model, unless it is there: then True."""

    def make() -> dict[str, Any]:
        cli = _sparc3("fit", FIT_CONFIG, demo.fit_options, console)
        module = cli.model
        known = module.evaluator.perplexity(module.lm, module.tokenizer, texts_of(CORPUS / "text_train.jsonl"))
        unseen = module.evaluator.perplexity(module.lm, module.tokenizer, texts_of(CORPUS / "text_validation.jsonl"))
        figures = {name: {"known": known[name].perplexity, "unseen": unseen[name].perplexity} for name in known}
        num_parameters = sum(parameter.numel() for parameter in module.lm.parameters())
        return {"made": str(FIT / "model"), "num_parameters": num_parameters, "figures": figures}

    inputs = (FIT_CONFIG, CORPUS / "train.jsonl", CORPUS / "text_train.jsonl", CORPUS / "text_validation.jsonl",
              CORPUS / "tokenizer")  # fmt: skip
    outcome, reused = Stage("model", FIT, inputs, {"options": demo.fit_options}).run(make, console)
    console.print(f"  {outcome['num_parameters']:,} parameters")
    for name, figure in outcome["figures"].items():
        console.print(
            f"  perplexity ({name}) on new documents: {number(figure['known'])}; on frames and nouns that it has not "
            f"seen: {number(figure['unseen'])}"
        )
    return reused


def fit_scorer(demo: Demo, console: Console) -> bool:
    """Train the toxicity scorer, unless it is there: then True."""
    train, heldout = CORPUS / "labelled_train.jsonl", CORPUS / "labelled_evaluation.jsonl"

    def make() -> dict[str, Any]:
        train_scorer(train, SCORER, demo.scorer, console)
        return {"made": str(SCORER), "auc": heldout_auc(heldout, SCORER)}

    outcome, reused = Stage("scorer", SCORER, (train, heldout), asdict(demo.scorer)).run(make, console)
    console.print(f"  AUC on frames, nouns and insults that it has not seen: {outcome['auc']:.3f}")
    return reused


def suppress(demo: Demo, console: Console) -> bool:
    """Run the main job, or show again what it found: then True."""

    def make() -> dict[str, Any]:
        cli = _sparc3("predict", SUPPRESS_CONFIG, demo.predict_options, console)
        module, rows = cli.model, texts_of(CORPUS / "text_train.jsonl")

        def perplexity() -> float:
            return float(module.evaluator.perplexity(module.lm, module.tokenizer, rows)["disjoint"].perplexity)

        perplexities = {"baseline": perplexity()}
        with apply_recipe(module.lm, module.run.recipe, check_base=False):
            perplexities["pruned"] = perplexity()
        run = module.run
        unknown = {
            "baseline": unknown_words(run.baseline),
            "pruned": unknown_words(run.pruned),
            "control": unknown_words(*run.controls),
        }
        price = {"perplexity": perplexities, "unknown_words": unknown}
        return {"made": str(Path(cli.trainer.log_dir) / _RESULTS), "price": price}

    inputs = (SUPPRESS_CONFIG, FIT / "model", SCORER, CORPUS / "general.jsonl", CORPUS / "prompts_train.jsonl",
              CORPUS / "prompts_evaluation.jsonl", CORPUS / "text_evaluation.jsonl",
              CORPUS / "text_train.jsonl")  # fmt: skip
    stage = Stage("main job", SUPPRESS, inputs, {"options": demo.predict_options}, keep=True)
    outcome, reused = stage.run(make, console)
    results = Path(outcome["made"])
    if reused:
        print_summary(read_json(results), results.parent, console)
    print_price(outcome["price"], console)
    print_completions(results.parent, console)
    console.print(Padding(Text(_EVIDENCE), (1, 0)))
    return reused


def _sparc3(command: str, config: Path, options: Sequence[str], console: Console) -> Any:
    words = [command, "--config", str(config), *options]
    console.print(Text(f"  $ sparc3 {shlex.join(words)}"), soft_wrap=True)
    with warnings.catch_warnings(), _without_transformers_bars():
        # LightningCLI warns of arguments given in Python where there is a command line, too.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        return sparc3(words)


@contextmanager
def _without_transformers_bars() -> Iterator[None]:
    """Files of a model this small are read and written at once, and bars of two makers spoil each other's lines."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def main(args: Sequence[str] | None = None, demo: Demo = Demo()) -> int:
    """Run the demo from the project's root; everything lies in `logs/demo/`.

    Args:
        args: Command line; default: this process's.
        demo: What it is made of.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sparc3_lightning.demo",
        description="The whole method on a model made here; everything lies in logs/demo/.",
    )
    parser.add_argument(
        "until", nargs="?", choices=["corpus", "fit", "scorer", "all"], default="all", help="last stage"
    )
    until = parser.parse_args(args).until
    if not SUPPRESS_CONFIG.is_file():
        print(f"sparc3: error: run the demo from the project's root: no {SUPPRESS_CONFIG} here.", file=sys.stderr)
        return 1
    console, started = rich.get_console(), time.perf_counter()
    stages = {"corpus": make_corpus, "fit": fit_model, "scorer": fit_scorer, "all": suppress}
    reused = True
    for name, stage in stages.items():
        reused &= stage(demo, console)
        if name == until:
            break
    took = "Nothing was made again" if reused else f"The demo took {time.perf_counter() - started:.0f} s"
    lines = [f"{took}. To start from nothing: rm -r {LOGS}"]
    if until == "all":
        lines.append(f"Curves of the fit and all figures: tensorboard --logdir {LOGS}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
