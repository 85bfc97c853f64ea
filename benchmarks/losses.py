"""What else does a model lose when neurons go? Texts and words that nothing was chosen by, and two tasks.

    python benchmarks/losses.py MODEL RECIPE [--no_harness] [--json FILE]

Of C4, TinyStories, sentences that name groups of people and sentences that quote an insult (tests/sentences):
perplexity. Of words of C4 as frequent as those that the recipe was made of: log-probability. By lm-evaluation-harness:
indirect objects as a choice of two names, and rolling perplexity of C4. MODEL is a Hugging Face directory, RECIPE one
that `benchmarks/real_model.py` wrote; all else is in ../shared/fixtures. The model computes in bfloat16, as there.
"""

import argparse
import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning import Recipe, apply_recipe
from sparc3_lightning.metrics.measure import Column
from sparc3_lightning.pruning.passages import Passage, Passages
from sparc3_lightning.statistics.compare import Change, compare
from sparc3_lightning.trials.suppress import draw_controls
from sparc3_lightning.wording import p_value, percent

ROOT = Path(__file__).resolve().parents[1]
FIXTURES, TASKS, HOME = ROOT.parent / "shared/fixtures", ROOT / "benchmarks/tasks", ROOT / "logs/real_model"
SENTENCES = ROOT / "tests/sentences"
FIRST_UNSEEN, NUM_DOCUMENTS, NUM_TOKENS = 1000, 100, 200
"""C4 documents from this row on were neither attributed nor paid by; so many of so many tokens are read."""
TASK_FIGURES = {"sparc3_ioi": "acc,none", "sparc3_c4": "word_perplexity,none"}


def documents() -> list[str]:
    """C4, in the file's order."""
    lines = (FIXTURES / "c4_sample/c4.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def texts(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Passage]]:
    """The texts, each scored from its second token on."""
    stories = (FIXTURES / "tinystories/stories.jsonl").read_text(encoding="utf-8").splitlines()
    found = {
        "C4": documents()[FIRST_UNSEEN : FIRST_UNSEEN + NUM_DOCUMENTS],
        "TinyStories": [json.loads(line)["text"] for line in stories],
        "naming groups": (SENTENCES / "naming_groups.txt").read_text(encoding="utf-8").splitlines(),
        "quoting": (SENTENCES / "quoting.txt").read_text(encoding="utf-8").splitlines(),
    }
    return {
        name: [Passage(torch.tensor(tokenizer(text)["input_ids"][:NUM_TOKENS])) for text in some]
        for name, some in found.items()
    }


def equal_words(tokenizer: PreTrainedTokenizerBase, target_ids: Sequence[int]) -> list[Passage]:
    """For each token that was explained another one that begins a word and is as frequent in C4, where it stands there.

    Frequencies are of all documents but the last ones; places are in those.
    """
    ids = [tokenizer(text)["input_ids"] for text in documents()]
    counts = Counter(token for row in ids[:FIRST_UNSEEN] for token in row)
    taken, places = set(target_ids), dict[int, Passage]()
    for row in ids[FIRST_UNSEEN:]:
        for place, token in enumerate(row[:NUM_TOKENS]):
            if place > 4 and token not in taken and re.fullmatch(r" [A-Za-z]{3,}", tokenizer.decode([token])):
                places.setdefault(token, Passage(torch.tensor(row[: place + 1]), place))
    found = []
    for target in target_ids:
        nearest = min(places, key=lambda token: (abs(counts[token] - counts[target]), token))
        found.append(places.pop(nearest))
    return found


def columns(model: PreTrainedModel, sets: dict[str, list[Passage]], words: Sequence[Passage]) -> dict[str, Column]:
    """Each text's perplexity, and the words' log-probability."""
    found = {}
    for name, some in sets.items():
        seen = Passages(model, some)
        ids = [str(place) for place in range(len(some))]
        found[name] = Column(
            name, "perplexity", "lower", "window", "exp_mean", ids, -seen.base, seen.num_tokens.double(), role="price"
        )
    logs = Passages(model, words).base
    ids = [str(place) for place in range(len(words))]
    found["words as frequent"] = Column("words as frequent", "nats", "higher", "word", "mean", ids, logs)
    return found


def write_tasks() -> None:
    """Rows of the harness's tasks."""
    lists = json.loads((FIXTURES / "ioi/ioi_lists.json").read_text(encoding="utf-8"))
    with (FIXTURES / "ioi/ioi_llama.csv").open(encoding="utf-8", newline="") as file:
        prompts = [row["clean"] for row in csv.DictReader(file)]
    HOME.mkdir(parents=True, exist_ok=True)
    rows = list(_choices(prompts, {*lists["NAMES"]}))
    (HOME / "ioi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    some = [{"text": text} for text in documents()[FIRST_UNSEEN : FIRST_UNSEEN + NUM_DOCUMENTS]]
    (HOME / "c4_documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")


def _choices(prompts: Sequence[str], names: set[str]) -> Iterator[dict[str, str]]:
    """The name that comes once is right, the one that comes twice is wrong."""
    for prompt in prompts:
        counts = Counter(word for word in re.findall(r"[A-Z][a-z]+", prompt) if word in names)
        once, twice = ([name for name, number in counts.items() if number == wanted] for wanted in (1, 2))
        if len(once) == len(twice) == 1:
            yield {"prompt": prompt, "right": once[0], "wrong": twice[0]}


def by_harness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Figures of lm-evaluation-harness."""
    from lm_eval import simple_evaluate  # type: ignore[import-untyped]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, max_length=1024)
    tasks = TaskManager(include_path=str(TASKS), include_defaults=False)
    found = simple_evaluate(wrapped, tasks=list(TASK_FIGURES), task_manager=tasks, bootstrap_iters=0)["results"]
    return {task: float(found[task][figure]) for task, figure in TASK_FIGURES.items()}


def show(
    changes: dict[str, Change], control: dict[str, Change], tasks: Sequence[dict[str, float]], console: Console
) -> None:
    """Print a row a text, with as many random neurons of the same layers beside it, then a row a task."""
    head = ("", "before", "after", "change", "95 %", "p", "random", "its p")
    table = Table(*head, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, one in changes.items():
        ends = f"{one.interval.low:+.3f}, {one.interval.high:+.3f}"
        change, random = (
            f"{found.change:+.3f} nats" if name == "words as frequent" else percent(found.relative)
            for found in (one, control[name])
        )
        ps = (p_value(found.p_value) for found in (one, control[name]))
        table.add_row(name, f"{one.before:.3f}", f"{one.after:.3f}", change, ends, next(ps), random, next(ps))
    for task in TASK_FIGURES if tasks else ():
        before, after = (one[task] for one in tasks)
        table.add_row(f"{task} (harness)", f"{before:.3f}", f"{after:.3f}", percent(after / before - 1))
    console.print(table)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face directory")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--no_harness", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    target = args.json.resolve() if args.json else None
    recipe = Recipe.load(args.recipe)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    sets, words = texts(tokenizer), equal_words(tokenizer, recipe.options["target_ids"])
    with contextlib.chdir(ROOT):
        write_tasks()
        before, tasks = columns(model, sets, words), list[dict[str, float]]()
        if not args.no_harness:
            tasks.append(by_harness(model, tokenizer))
        with apply_recipe(model, recipe, check_base=False):
            after = columns(model, sets, words)
            if not args.no_harness:
                tasks.append(by_harness(model, tokenizer))
        (random,) = draw_controls(recipe, model.config.intermediate_size, 1, 0)
        with apply_recipe(model, random, check_base=False):
            control = compare(before, columns(model, sets, words))
    changes = compare(before, after)
    show(changes, control, tasks, Console(width=120))
    if target:
        found: dict[str, Any] = {
            name: {"before": one.before, "after": one.after, "p": one.p_value, "control": control[name].after,
                   "interval": [one.interval.low, one.interval.high]}
            for name, one in changes.items()
        }  # fmt: skip
        content = {"changes": found, "tasks": tasks}
        target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
