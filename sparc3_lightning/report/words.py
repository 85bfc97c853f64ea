"""Names of figures in words; texts that a model wrote, as a reader gets them, and which of them are shown."""

from collections.abc import Sequence


def spoken(figure: str) -> str:
    """A figure's name in words, the same everywhere: `toxicity/expected_maximum` is "toxicity, expected maximum"."""
    return figure.replace("/", ", ").replace("_", " ")


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
