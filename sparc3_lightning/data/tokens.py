"""Texts to token ids, and texts that are longer than the context."""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnTooLong = Literal["truncate", "refuse"]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = True) -> list[int]:
    """Tokenise one text without padding or truncation.

    Args:
        tokenizer: The model's tokenizer.
        text: The text.
        special: Add what the tokenizer adds by itself, such as a beginning-of-text token.
    """
    # verbose=False: the tokenizer would warn of a long text, which is cropped or refused here.
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def starts_with_bos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> bool:
    """Tell whether token ids begin with the tokenizer's beginning-of-text token."""
    return tokenizer.bos_token_id is not None and len(ids) > 0 and int(ids[0]) == tokenizer.bos_token_id


def keep_last(tokenizer: PreTrainedTokenizerBase, ids: list[int], max_tokens: int) -> list[int]:
    """Left-truncate token ids; a beginning-of-text token stays in front."""
    if len(ids) <= max_tokens:
        return ids
    head = ids[:1] if starts_with_bos(tokenizer, ids) else []
    return head + ids[len(ids) - max_tokens + len(head) :]


def encode_samples(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], max_tokens: int, on_too_long: OnTooLong
) -> tuple[list[Tensor], int]:
    """Tokenise samples for attribution, special tokens as the tokenizer adds them.

    Args:
        tokenizer: The model's tokenizer.
        texts: Pairs of place and text; the place is for messages.
        max_tokens: The longest sample, usually the model's context.
        on_too_long: What becomes of a longer one: its last tokens are kept (with a warning that counts), or an error.

    Returns:
        Token ids (T_s,) int64 of each sample, and how many were truncated.

    Raises:
        ValueError: A text is too long and is to be refused, or has no tokens.
    """
    samples, num_truncated = [], 0
    for place, text in texts:
        ids = encode(tokenizer, text)
        if not ids:
            raise ValueError(f"{place}: the text has no tokens under this model's tokenizer. Remove it.")
        if len(ids) > max_tokens:
            _refuse(on_too_long, place, len(ids), max_tokens)
            num_truncated += 1
        samples.append(torch.tensor(keep_last(tokenizer, ids, max_tokens), dtype=torch.int64))
    _warn(num_truncated, len(samples), max_tokens)
    return samples, num_truncated


def fit_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], max_tokens: int, on_too_long: OnTooLong
) -> tuple[list[str], int]:
    """Left-truncate texts so that each, tokenised again, has at most `max_tokens` tokens.

    The arguments are those of `encode_samples`; so are the errors.

    Returns:
        The texts, and how many were truncated.
    """
    fitted, num_truncated = [], 0
    for place, text in texts:
        num_tokens = len(encode(tokenizer, text))
        if num_tokens > max_tokens:
            _refuse(on_too_long, place, num_tokens, max_tokens)
            num_truncated += 1
            text = _longest_end(tokenizer, text, max_tokens)
            if not text.strip():
                raise ValueError(f"{place}: nothing of the text fits into {max_tokens} tokens. Leave more room for it.")
        fitted.append(text)
    _warn(num_truncated, len(fitted), max_tokens)
    return fitted, num_truncated


def _longest_end(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> str:
    def fits(start: int) -> bool:
        return len(encode(tokenizer, text[start:])) <= max_tokens

    return text[bisect.bisect_left(range(len(text)), True, key=fits) :]


def _refuse(on_too_long: OnTooLong, place: str, num_tokens: int, max_tokens: int) -> None:
    if on_too_long == "refuse":
        raise ValueError(
            f"{place}: the text has {num_tokens} tokens, at most {max_tokens} fit. "
            "Shorten it, or set `init_args.on_too_long: truncate` to keep its last tokens."
        )


def _warn(num_truncated: int, num_texts: int, max_tokens: int) -> None:
    if num_truncated:
        warnings.warn(
            f"{num_truncated} of {num_texts} texts were left-truncated to {max_tokens} tokens. "
            "Set `init_args.on_too_long: refuse` to stop instead.",
            stacklevel=3,
        )
