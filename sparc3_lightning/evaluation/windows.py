"""The loop over a text's windows."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.data.tokens import check_vocabulary, count_control, encode, starts_with_bos, token_counts
from sparc3_lightning.distributed.ranks import gather_objects, raise_together, rank_and_world_size
from sparc3_lightning.evaluation.generation import evaluation_mode, last_logits
from sparc3_lightning.loops import Counted, Progress, T, no_progress
from sparc3_lightning.metrics.perplexity import (
    PerplexityResult,
    Window,
    WindowPerplexity,
    default_stride,
    join_rows,
    window_losses,
    windows,
)
from sparc3_lightning.models.load import context_length
from sparc3_lightning.pruning.lower_blocks import AroundPass, whole_pass


class CutText(NamedTuple):
    """A text as a protocol reads it.

    Attributes:
        token_ids: Of the whole text.
        windows: Where they are cut.
        stride: Tokens between the starts of two windows.
        token_counts: What was found in the ids; see `data.tokens.token_counts`.
    """

    token_ids: list[int]
    windows: list[Window]
    stride: int
    token_counts: dict[str, int]


def cut_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[str],
    protocol: str,
    window: int = 2048,
    stride: int | None = None,
) -> CutText:
    """Tokenise a text and cut it into windows; the arguments are those of `measure_perplexity`.

    Raises:
        ValueError: A text too short, or with tokens that the model has not.
    """
    counts = token_counts()
    token_ids = encode(tokenizer, join_rows(rows, protocol), counts=counts)
    counts["num_control_tokens"] = count_control(tokenizer, [token_ids])
    window = min(window, context_length(model))
    stride = (default_stride(window) if stride is None else stride) if protocol == "sliding" else window
    cut = windows(len(token_ids), protocol, window, stride)
    check_vocabulary(token_ids, model.config.vocab_size, "`evaluation_text`")
    return CutText(token_ids, cut, stride, dict(counts))


def measure_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[str],
    protocol: str,
    window: int = 2048,
    stride: int | None = None,
    batch_size: int = 256,
    max_tokens: int = 16_384,
    progress: Progress = no_progress,
    around: AroundPass = whole_pass,
) -> PerplexityResult:
    """Perplexity of a text, on all processes together and the same on each; the options are the evaluator's.

    Each forward pass runs in what `around` gives for it; it is named by the protocol and a number.

    Raises:
        ValueError: A text too short or with tokens that the model has not, or a figure that is not finite.
    """
    token_ids, cut, stride, counts = cut_text(model, tokenizer, rows, protocol, window, stride)
    metric = WindowPerplexity().to(model.device)
    rank, world = rank_and_world_size()
    batches = share(_batches(cut, batch_size, max_tokens, world), rank, world)
    ids = torch.tensor(token_ids)
    starts: list[int] = []
    losses: list[torch.Tensor] = []
    with torch.no_grad(), evaluation_mode(model):
        num_mine = sum(len(batch or ()) for batch in batches)
        counted = Counted(batches, "windows", num_mine, lambda batch: len(batch or ()))
        for number, batch in enumerate(progress(counted, len(batches), f"perplexity ({protocol})")):
            # A rank without work repeats the first window uncounted: a sharded model needs every rank in every pass.
            with around((protocol, number)):
                scored = score_windows(model, ids, batch or cut[:1])
            if batch:
                metric.update(scored, batch[0].num_scored)
                starts += [item.start for item in batch]
                losses.append(scored)
    # The sums of all ranks: a figure that is not finite is so on each of them.
    perplexity = raise_together(metric.compute, ValueError, model.device)
    return PerplexityResult(
        protocol=protocol,
        perplexity=float(perplexity),
        mean_loss=float(perplexity.log()),
        num_tokens=len(token_ids),
        num_scored=sum(item.num_scored for item in cut),
        num_windows=len(cut),
        window=min(window, context_length(model)),
        stride=stride,
        begins_with_bos=starts_with_bos(tokenizer, token_ids),
        window_losses=_in_order(starts, losses),
        token_counts=counts,
    )


def _in_order(starts: Sequence[int], losses: Sequence[torch.Tensor]) -> list[float]:
    """All ranks' losses in the order of their windows, which start where no other does."""
    mine = zip(starts, torch.cat([*losses]).tolist() if losses else [], strict=True)
    return [loss for _, loss in sorted(gather_objects(list(mine)))]


def num_batches(cut: Sequence[Window], batch_size: int, max_tokens: int) -> int:
    """How many forward passes `measure_perplexity` makes on each rank, by the same options."""
    world = rank_and_world_size()[1]
    return -(-len(_batches(cut, batch_size, max_tokens, world)) // world)


def _batches(cut: Sequence[Window], batch_size: int, max_tokens: int, world: int) -> list[list[Window]]:
    """Batches of windows alike in length and scored tokens: no padding, and one slice of the logits fits all."""
    batches = []
    for (length, _), alike in groupby(cut, key=lambda item: (item.stop - item.start, item.num_scored)):
        group = list(alike)
        # No more than an even share: a short text would be one rank's work.
        num = min(batch_size, max(1, max_tokens // length), -(-len(group) // world))
        batches += [group[start : start + num] for start in range(0, len(group), num)]
    return batches


def score_windows(model: PreTrainedModel, ids: torch.Tensor, batch: Sequence[Window]) -> torch.Tensor:
    """Loss of each window's scored tokens together, in one forward pass.

    Args:
        model: A causal language model.
        ids: Of the whole text.
        batch: Windows alike in length and scored tokens.

    Shape: ids (T,), result (B,).
    Units: nats.
    """
    input_ids = torch.stack([ids[item.start : item.stop] for item in batch]).to(model.device)
    num_scored = batch[0].num_scored
    # Only the positions that predict a scored token: the logits of the others are most of the memory of a large
    # vocabulary, and their head's product a quarter of the time of a small model.
    logits = model(input_ids=input_ids, use_cache=False, **last_logits(model, num_scored + 1)).logits
    return window_losses(logits, input_ids, num_scored)


def share(items: Sequence[T], rank: int, world: int) -> list[T | None]:
    """This rank's items, dealt out in turn: a sharded model needs every rank in every forward pass.

    Returns:
        ceil(len(items) / world) items; None fills what is missing: work to be done and forgotten.
    """
    mine: list[T | None] = list(items[rank::world])
    return mine + [None] * (-(-len(items) // world) - len(mine))
