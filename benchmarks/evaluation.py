"""What an evaluation costs, in forward passes, in one run.

    python benchmarks/evaluation.py [MODEL] [--json FILE] [--rounds N] [--threads N] [--windows N] [--length N]
                                    [--completions N] [--tokens N]

MODEL is a Hugging Face directory; without one a LLaMA of hidden 576, 8 layers and vocabulary 8000 with random weights.
Token ids are random: they cost what others do. Windows are `sliding`: the last quarter of each is scored. One forward
pass is that of the same windows with logits at their last position alone; a row's figure is its time over that one's,
of as many tokens: of a completion, tokens generated, four of each prompt. After a warm-up each is measured once a
round, in turn, and the median over the rounds is given. Generation's forward part is its greedy decoding; sampling is
what is left. Rows with "before" do without what saves time; in float32 the outcome may differ, which is counted.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from attribution import build_model
from measure import seconds
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sparc3_lightning.evaluation import sampling
from sparc3_lightning.evaluation.generation import Decoding, Request, complete
from sparc3_lightning.evaluation.windows import score_windows
from sparc3_lightning.metrics.perplexity import Window, window_losses
from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.lower_blocks import LowerBlocks

_PROMPT, _COMPLETIONS = 16, 4
# Nothing ends a completion, and no text is made of it: every one has as many tokens.
_ENDLESS: Any = SimpleNamespace(eos_token_id=None, decode=lambda *args, **options: "")


@torch.no_grad()
def perplexity_seconds(model: PreTrainedModel, ids: Tensor, length: int, rounds: int) -> dict[str, float]:
    """Seconds for all windows in one batch: a forward pass, and a perplexity in each of three ways.

    Args:
        model: The model.
        ids: Token ids of the windows, one after the other.
        length: Of a window.
        rounds: How often each is measured.
    """
    scored = length // 4
    batch = [Window(start, start + length, scored) for start in range(0, len(ids), length)]
    rows = ids.view(-1, length)
    half = len(get_family(model.config.model_type).block_modules(model)) // 2
    lower = LowerBlocks(model, int(1e12))

    def shared() -> None:
        with lower.around("windows", half):
            score_windows(model, ids, batch)

    return medians(
        {
            "forward pass": lambda: model(input_ids=rows, use_cache=False, logits_to_keep=1),
            "perplexity, before: logits at all positions": lambda: window_losses(
                model(input_ids=rows, use_cache=False).logits, rows, scored
            ),
            "perplexity": lambda: score_windows(model, ids, batch),
            "perplexity, lower half shared": shared,
        },
        rounds,
    )


@torch.no_grad()
def perplexity_change(model: PreTrainedModel, ids: Tensor, length: int) -> float:
    """By which part the windows' perplexity differs from that of logits at all positions."""
    scored, rows = length // 4, ids.view(-1, length)
    batch = [Window(start, start + length, scored) for start in range(0, len(ids), length)]
    now = score_windows(model, ids, batch).sum()
    before = window_losses(model(input_ids=rows, use_cache=False).logits, rows, scored).sum()
    return abs(float(((now - before) / (len(batch) * scored)).expm1()))


def generation_seconds(model: PreTrainedModel, num: int, tokens: int, rounds: int) -> tuple[dict[str, float], int]:
    """Seconds of one batch of completions: greedy, and as the `document` protocol samples; and how many came out other.

    Args:
        model: The model.
        num: Completions in the batch.
        tokens: Of each.
        rounds: How often each is measured.
    """
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    ids = random_ids(num * _PROMPT, model.config.vocab_size).view(num, _PROMPT).tolist()
    together = [Request(number // _COMPLETIONS, number, ids[number // _COMPLETIONS], number) for number in range(num)]
    alone = [replace(request, prompt=number) for number, request in enumerate(together)]

    def run(requests: list[Request], temperature: float = 0.7) -> list[list[int]]:
        decoding = Decoding(max_new_tokens=tokens, temperature=temperature, top_p=0.9)
        found = [one.token_ids for one in complete(model, _ENDLESS, requests, decoding)]
        assert {len(one) for one in found} == {tokens}
        return found

    def before() -> list[list[int]]:
        """Every completion reads its prompt, and a nucleus is looked for in the whole vocabulary."""
        with patch.object(sampling, "_LIKELIEST", model.config.vocab_size):
            return run(alone)

    taken = medians({"before": before, "greedy": lambda: run(together, 0.0), "sampled": lambda: run(together)}, rounds)
    return taken, sum(one != other for one, other in zip(before(), run(together), strict=True))


def medians(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, measured in turn."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            value = seconds(function)
            if number:  # the first round warms up
                taken[name].append(value)
    return {name: statistics.median(values) for name, values in taken.items()}


def random_ids(num: int, vocab_size: int) -> Tensor:
    """The same ones each time."""
    return torch.randint(0, vocab_size, (num,), generator=torch.Generator().manual_seed(1))


def run(model: PreTrainedModel, args: argparse.Namespace) -> dict[str, float]:
    """Forward passes' worth of time, by what they are spent on."""
    num_tokens = args.windows * args.length
    ids = random_ids(num_tokens, model.config.vocab_size)
    text = perplexity_seconds(model, ids, args.length, args.rounds)
    completions, num_changed = generation_seconds(model, args.completions, args.tokens, args.rounds)
    one = text.pop("forward pass")
    found = {name: value / one for name, value in text.items()}
    a_token = {
        name: value / (args.completions * args.tokens) / (one / num_tokens) for name, value in completions.items()
    }
    return {
        **found,
        "generation, per token, before": a_token["before"],
        "generation, per token": a_token["sampled"],
        "of which forward passes": a_token["greedy"],
        "of which sampling": a_token["sampled"] - a_token["greedy"],
        "completions changed": num_changed,
        "perplexity changed": perplexity_change(model, ids, args.length),
    }


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="Hugging Face directory")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--completions", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.model:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    else:
        model = build_model()
    result = run(model, args)
    table = Table(
        "", "forward passes",
        title=f"{args.windows} x {args.length} tokens; {args.completions} completions of {args.tokens} tokens",
    )  # fmt: skip
    *rows, (_, num_changed), (_, change) = result.items()
    for name, value in rows:
        table.add_row(name, f"{value:.2f}")
    Console().print(table)
    print(f"Changed: {num_changed} of {args.completions} completions; perplexity by a part of {change:.0e}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
