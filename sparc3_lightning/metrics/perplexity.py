"""Perplexity of a text under two named protocols.

A figure without its protocol's name is worthless: `sliding` and `disjoint` differ by ten per cent on the same text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

PerplexityProtocol = Literal["sliding", "disjoint"]
PROTOCOLS: list[PerplexityProtocol] = list(get_args(PerplexityProtocol))

# Elements of float32 logits alive at once in the loss: 8 MB, whatever the vocabulary. They stay in a CPU's cache, which
# makes the loss about five times as fast as over all positions at once.
_CHUNK_ELEMENTS = 2**21


@dataclass(frozen=True)
class Window:
    """One stretch of the text that the model reads in one pass.

    Attributes:
        start: First token of the window.
        stop: One past its last token.
        num_scored: How many of its last tokens count; the others are context, counted in an earlier window.
    """

    start: int
    stop: int
    num_scored: int


@dataclass(frozen=True)
class PerplexityResult:
    """A perplexity with all that its figure depends on.

    Attributes:
        protocol: `sliding` or `disjoint`.
        perplexity: exp(mean loss).
        mean_loss: Nats a scored token.
        num_tokens: Tokens of the text.
        num_scored: Tokens that count.
        num_windows: Windows read.
        window: Tokens in a window.
        stride: Tokens between two windows' starts.
        begins_with_bos: Whether the tokenizer put a beginning-of-text token before the text.
        window_losses: Sum of token losses of each window, in nats, in the text's order: what pairs two models.
        token_counts: What was found in the text's token ids; see `data.tokens.token_counts`.
    """

    protocol: str
    perplexity: float
    mean_loss: float
    num_tokens: int
    num_scored: int
    num_windows: int
    window: int
    stride: int
    begins_with_bos: bool
    window_losses: list[float]
    token_counts: dict[str, int] = field(default_factory=dict)


def check_protocol(protocol: str) -> None:
    """Refuse a protocol this project does not know.

    Raises:
        ValueError: `protocol` is not in `PROTOCOLS`.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"`protocol` must be one of {PROTOCOLS}, got {protocol!r}. Set `Evaluator.init_args.perplexity_protocols`."
        )


def join_rows(rows: Sequence[str], protocol: str) -> str:
    """Make one text of a data set's rows, as the protocol does.

    Args:
        rows: Rows in their order, unchanged.
        protocol: `sliding` drops rows of blanks only; `disjoint` keeps all.

    Returns:
        The rows, joined by two newlines.

    Source:
        `disjoint`: github locuslab/wanda, lib/data.py (get_wikitext2).
    """
    check_protocol(protocol)
    return "\n\n".join(row for row in rows if protocol == "disjoint" or row.strip())


def windows(num_tokens: int, protocol: str, window: int, stride: int | None = None) -> list[Window]:
    """Cut a text into windows so that every scored token counts once.

    Args:
        num_tokens: Length of the text.
        protocol: `sliding` starts a window every `stride` tokens and scores what earlier windows did not, to the
            text's end. `disjoint` takes whole windows side by side and drops the tail.
        window: Tokens in a window.
        stride: Tokens between two starts of `sliding`; a quarter of the window unless given. `disjoint` has none.

    Returns:
        The windows in order. A window's first token has no prediction and is never scored.

    Raises:
        ValueError: An unknown protocol, a window of less than two tokens, a stride outside the window, or a text too
            short to score.

    Source:
        `sliding`: Hugging Face documentation, "Perplexity of fixed-length models"; `disjoint`: github locuslab/wanda,
        lib/eval.py.
    """
    check_protocol(protocol)
    stride = default_stride(window) if stride is None else stride
    if window < 2 or (protocol == "sliding" and not 1 <= stride < window):
        raise ValueError(
            f"`window` must be at least 2 and `stride` between 1 and `window` - 1, got {window} and {stride}. "
            "Set `Evaluator.init_args.window` and `Evaluator.init_args.stride`."
        )
    shortest = window if protocol == "disjoint" else 2
    if num_tokens < shortest:
        raise ValueError(
            f"protocol `{protocol}` needs a text of at least {shortest} tokens, got {num_tokens}. "
            "Give a longer `evaluation_text` or set a smaller `Evaluator.init_args.window`."
        )
    return _disjoint(num_tokens, window) if protocol == "disjoint" else _sliding(num_tokens, window, stride)


def default_stride(window: int) -> int:
    """A quarter of the window, and at least one token."""
    return max(1, window // 4)


def _disjoint(num_tokens: int, window: int) -> list[Window]:
    return [Window(start, start + window, window - 1) for start in range(0, num_tokens - window + 1, window)]


def _sliding(num_tokens: int, window: int, stride: int) -> list[Window]:
    cut = [Window(0, min(window, num_tokens), min(window, num_tokens) - 1)]
    while cut[-1].stop < num_tokens:
        start = cut[-1].start + stride
        stop = min(start + window, num_tokens)
        cut.append(Window(start, stop, stop - cut[-1].stop))
    return cut


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each token in nats, float64, never holding more than a chunk of float32 logits.

    Shape:
        logits (N, V), targets (N,), result (N,).
    """
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    precise = torch.promote_types(logits.dtype, torch.float32)
    chunks = zip(torch.split(logits, rows), torch.split(targets, rows), strict=True)
    losses = [F.cross_entropy(chunk.to(precise), ids, reduction="none").double() for chunk, ids in chunks]
    return torch.cat(losses)


def window_losses(logits: Tensor, input_ids: Tensor, num_scored: int) -> Tensor:
    """Sum of token losses of each window, over its last `num_scored` tokens.

    Args:
        logits: The model's output at the last K >= num_scored + 1 positions; the shift happens here.
        input_ids: The windows' token ids.
        num_scored: Tokens that count, the same in every window of the batch.

    Returns:
        The sums, float64.

    Shape:
        logits (B, K, V), input_ids (B, T), result (B,).

    Units:
        nats.
    """
    predictions = logits[:, -num_scored - 1 : -1]
    targets = input_ids[:, -num_scored:].to(logits.device)
    return torch.stack([token_losses(*window).sum() for window in zip(predictions, targets, strict=True)])


class WindowPerplexity(Metric):
    """exp(sum of token losses / number of scored tokens), over windows of a text and over ranks.

    torchmetrics' own Perplexity does not shift, underflows where a token's probability does, and holds the softmax
    of all positions at once; this one works on the loss. States are float64 and int64 whatever the model's dtype.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, num_scored: int) -> None:
        """Count some windows: their losses (B,), and the tokens that count in each."""
        self.total += losses.sum(dtype=torch.float64).to(self.total.device)
        self.count += losses.numel() * num_scored

    def compute(self) -> Tensor:
        """The perplexity.

        Raises:
            ValueError: Nothing was counted, or the figure is not finite (a broken model).
        """
        if int(self.count) == 0:
            raise ValueError("perplexity needs at least one scored token, got none. Give a longer `evaluation_text`.")
        mean_loss = float(self.total) / int(self.count)
        figure = torch.exp(self.total / self.count)
        if not math.isfinite(float(figure)):
            raise ValueError(
                f"perplexity must be finite, got {float(figure)} from a mean loss of {mean_loss} nats over "
                f"{int(self.count)} tokens: the model's logits are broken (check its weights and dtype)."
            )
        return figure
