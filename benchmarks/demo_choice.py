"""What the demo's corpus and fit are chosen by: figures and completions of the validation part, never of evaluation.

    python benchmarks/demo_choice.py [--vocabulary N] [--invented SHARE] [--num_train N] [--home DIR] [--json FILE]
        [FIT_OPTION ...]

Fit options are those of `sparc3 fit`, behind `--`, such as `-- --trainer.max_steps=1500`. It makes corpus and model in
a directory of its own (`--home` keeps it), and a scorer from the training part.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import rich
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.data.samples import Prompt
from sparc3_lightning.data.sources import read_file
from sparc3_lightning.demo.__main__ import CORPUS, FIT, SUPPRESS_CONFIG, Demo, fit_model, make_corpus
from sparc3_lightning.demo.corpus import Sizes, texts_of
from sparc3_lightning.demo.grammar import Part
from sparc3_lightning.demo.outcome import one_line
from sparc3_lightning.demo.scorer import heldout_auc, train_scorer
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.generation import Decoding
from sparc3_lightning.files import load_yaml
from sparc3_lightning.metrics import DetoxifyScorer

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Figures:
    """What is known of a corpus and a fit before anything is attributed.

    Attributes:
        perplexity: Of the validation text, by token.
        perplexity_by_word: The same by word: vocabularies of different size can be compared.
        known: Perplexity of new text of the training part.
        rude: Share of the baseline model's completions of validation prompts that the scorer finds rude.
        auc: The scorer's, on the validation part.
        fit_seconds: CPU seconds of the fit and of its perplexities.
    """

    perplexity: float
    perplexity_by_word: float
    known: float
    rude: float
    auc: float
    fit_seconds: float


@contextlib.contextmanager
def home_for_demo(directory: Path | None) -> Iterator[Path]:
    """Work in a directory where the demo can run, a temporary one unless given."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(directory or temporary)
        shutil.copytree(ROOT / "configs", home / "configs", dirs_exist_ok=True)
        with contextlib.chdir(home):
            yield home


def prompts_of(part: Part) -> list[Prompt]:
    """A part's rude prompts."""
    rows = read_file(str(CORPUS / f"prompts_{part}.jsonl"))
    return [Prompt(row.text("id", "id_column"), row.text("prompt", "prompt_column")) for row in rows]


def decoding() -> Decoding:
    """The main job's."""
    config = load_yaml(SUPPRESS_CONFIG.read_text("utf-8"), str(SUPPRESS_CONFIG))
    return Decoding(**config["model"]["evaluator"]["init_args"]["decoding"])


def perplexities(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, part: Part) -> tuple[float, float]:
    """Perplexity by token and by word of a part's text."""
    rows = texts_of(CORPUS / f"text_{part}.jsonl")
    result = Evaluator(perplexity_protocols=["disjoint"]).perplexity(model, tokenizer, rows)["disjoint"]
    tokens_a_word = sum(len(ids) for ids in tokenizer(rows)["input_ids"]) / sum(len(row.split()) for row in rows)
    return result.perplexity, result.perplexity**tokens_a_word


def main() -> None:
    """Make, measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=Demo().vocabulary)
    parser.add_argument("--num_train", type=int, default=Sizes().num_train)
    parser.add_argument("--invented", type=float, default=Sizes().invented, help="share of made-up nouns in training")
    parser.add_argument("--num_shown", type=int, default=8, help="completions to read")
    parser.add_argument("--home", type=Path, help="where to make it all; default: a temporary directory")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("fit_options", nargs="*")
    args = parser.parse_args()
    target = args.json.resolve() if args.json else None
    sizes = Sizes(num_train=args.num_train, invented=args.invented)
    demo = Demo(sizes, args.vocabulary, fit_options=tuple(args.fit_options))
    console = rich.get_console()
    with home_for_demo(args.home):
        make_corpus(demo, console)
        before = time.process_time()
        fit_model(demo, console)
        fit_seconds = time.process_time() - before
        model = AutoModelForCausalLM.from_pretrained(FIT / "model")
        tokenizer = AutoTokenizer.from_pretrained(FIT / "model")
        with tempfile.TemporaryDirectory() as temporary:
            scorer = Path(temporary) / "scorer"
            train_scorer(CORPUS / "labelled_train.jsonl", scorer)
            auc = heldout_auc(CORPUS / "labelled_validation.jsonl", scorer)
            evaluator = Evaluator(
                DetoxifyScorer(checkpoint=str(scorer), device="cpu"), decoding(), toxicity_protocol="custom",
                batch_size=64,
            )  # fmt: skip
            prompts = prompts_of("validation")
            toxicity = evaluator.toxicity(model, tokenizer, prompts)
        scores = [c.scores["toxicity"] for result in toxicity.prompts for c in result.completions]
        rude = sum(score > toxicity.threshold for score in scores) / len(scores)
        known, _ = perplexities(model, tokenizer, "train")
        figures = Figures(*perplexities(model, tokenizer, "validation"), known, rude, auc, fit_seconds)
    for result in toxicity.prompts[: args.num_shown]:
        completion = result.completions[0]
        console.print(f"{one_line(result.text)} ...", style="italic", markup=False)
        console.print(f"  [{completion.scores['toxicity']:.2f}] {one_line(completion.text)}", markup=False)
    console.print(json.dumps(asdict(figures), indent=2))
    if target:
        target.write_text(json.dumps(asdict(figures), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
