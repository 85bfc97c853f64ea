"""How names, numbers and texts that a model wrote are shown: the same in the terminal, on the page and in pictures."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

MISSING = "-"
NATS = "nats"
"""What a screen counts effects in where it measures words; the name of a score where it measures completions."""


def spoken(figure: str) -> str:
    """A figure's name in words, the same everywhere: `toxicity/expected_maximum` is "toxicity, expected maximum"."""
    return figure.replace("/", ", ").replace("_", " ")


def task_name(draws: Sequence[str]) -> str:
    """What a task is called, by the names of its draws: what these begin with, `ioi` of `ioi_seed0` and `ioi_seed1`.

    No word is cut, and no number. The first draw's name where they have nothing in common.
    """
    without_seed = [re.sub(r"[_.-]?seed[_.-]?\d+$", "", name) for name in draws]
    parts = [re.findall(r"\d+|[_.-]+|[^\d_.-]+", name) for name in without_seed]
    alike = takewhile(lambda ours: len(set(ours)) == 1, zip(*parts, strict=False))
    return "".join(part for part, *_ in alike).rstrip("_.-") or draws[0]


def relevance_unit(options: Mapping[str, Any]) -> str:
    """What relevance is counted in, by the options it was computed with: a log-probability is in nats."""
    return "nats" if options.get("explain") == "logprob" else "logits"


def counted(num: int, what: str, kind: str = "") -> str:
    """What was removed, with its number: "20 neurons", "31,852 random weights".

    Args:
        num: How many.
        what: "neurons" or "weights".
        kind: Which, in words.
    """
    number = f"{num:,}" if what == "weights" else str(num)  # weights are many
    return " ".join(filter(None, (number, kind, what)))


def measured_on(unit: str) -> str:
    """What a screen has measured a behaviour on, by the unit of its effects."""
    return "words" if unit == NATS else "prompts"


def lowered(unit: str) -> str:
    """What removals lower that a screen looks for, by the unit of its effects."""
    return "the behaviour's words" if unit == NATS else f"the mean {spoken(unit)} of the behaviour's completions"


def joint_effect(unit: str, effect: float, ordinary: float, price: float, unseen_price: float | None = None) -> str:
    """What the neurons that a screen has chosen do together.

    Args:
        unit: Of the effect.
        effect: Fall of what was screened by.
        ordinary: Fall of ordinary words, in nats; not measured beside completions.
        price: Rise of the price text's mean token loss, in nats.
        unseen_price: The same of what of it has chosen nothing; None where there was no more text.
    """
    moves, beside = _falls(effect), ""
    if unit == NATS:
        and_too = " and" if _falls(ordinary) == moves else f", {_falls(ordinary)}"
        beside = f" nats{and_too} ordinary words by {abs(ordinary):.3f}"
    return (
        f"together they {moves} {lowered(unit)} by {abs(effect):.3f}{beside}, and {'lower' if price < 0 else 'raise'} "
        f"the price text's perplexity by {abs(math.expm1(price)):.2%}{_unseen(unseen_price)}."
    )


def _unseen(price: float | None) -> str:
    return "" if price is None else f" ({math.expm1(price):+.2%} on other passages of it, which have chosen nothing)"


def _falls(by: float) -> str:
    return "raise" if by < 0 else "lower"


def visible(text: str) -> str:
    r"""Text in which nothing works unseen: what is neither printable nor a line break is spelled out.

    Control characters, marks that turn the direction of writing and halves of a surrogate pair become `\u202e` and the
    like. Markup stays as it is: who builds a page escapes it.
    """
    return "".join(sign if sign.isprintable() or sign == "\n" else f"\\u{ord(sign):04x}" for sign in text)


def spaced(total: int, count: int) -> Sequence[int]:
    """`count` of `total` positions, spread evenly and so not chosen by what is there."""
    count = min(total, count)
    return [position * total // count for position in range(count)]


def _digits(value: float) -> int:
    """Decimals for a figure of this size: three below 2, where toxicity and uniqueness are; none from 1000."""
    size = abs(value)
    return 3 if size < 2 else 2 if size < 1000 else 0


def number(value: float | None) -> str:
    """A figure, with as many decimals as its size bears; a collapsed model's perplexity as a power of ten."""
    if value is None:
        return MISSING
    return f"{value:.2e}" if abs(value) >= 1e6 else f"{value:,.{_digits(value)}f}"


def signed(value: float, beside: float) -> str:
    """A change with its sign, with as many decimals as the figure `beside` it has."""
    return f"{value:+.1e}" if abs(value) >= 1e6 else f"{value:+,.{_digits(beside)}f}"


def percent(value: float | None, sign: str = "+") -> str:
    """A fraction as a percentage; from a hundredfold on as a factor."""
    if value is None:
        return MISSING
    return f"x{value + 1:.1e}" if abs(value) >= 100 else f"{value:{sign}z,.{0 if abs(value) >= 10 else 1}%}"


def p_value(value: float) -> str:
    """A p-value as a cell of a table; it is never 0."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def p_equals(value: float) -> str:
    """A p-value as it is written in a sentence."""
    return "p < 0.001" if value < 0.001 else f"p = {p_value(value)}"


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed, by dotted key, for a message; empty where nothing did."""
    old, new = dict(_flat(then)), dict(_flat(now))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"`{key}` was {_short(old.get(key))} and is {_short(new.get(key))}" for key in changed)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _short(value: Any) -> str:
    """A value for a message: nobody reads the whole of a hash."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:16]}..."
