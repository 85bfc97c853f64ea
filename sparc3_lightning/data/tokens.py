"""Texts to token ids as a model is to read them, what is checked of all ids, and texts longer than the context."""

from __future__ import annotations

import bisect
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnTooLong = Literal["truncate", "refuse"]


def token_counts() -> Counter[str]:
    """What `encode` and `count_control` come upon, at zero.

    `num_trailing_eos`: end-of-text tokens that the tokenizer had added, taken off. `num_doubled_bos`: beginning-of-text
    tokens before another one, taken off. `num_control_tokens`: control tokens inside, made of plain text; they stay.
    """
    return Counter(num_trailing_eos=0, num_doubled_bos=0, num_control_tokens=0)


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = True, counts: Counter[str] | None = None
) -> list[int]:
    """Tokenise one text that goes on: without padding, truncation, an added end, or a beginning that comes twice.

    Args:
        tokenizer: The model's tokenizer.
        text: The text.
        special: Add what the tokenizer adds by itself, such as a beginning-of-text token.
        counts: Where given, what was taken off is counted there; see `token_counts`.
    """
    counts = token_counts() if counts is None else counts
    ids = _tokenise(tokenizer, text, special)
    start, end = _own_tokens(tokenizer, ids, special)
    counts["num_trailing_eos"] += len(ids) - end
    counts["num_doubled_bos"] += start
    return ids[start:end]


def _own_tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int], special: bool) -> tuple[int, int]:
    """Where a text that goes on starts and ends among its tokens."""
    # What is explained, continued or predicted comes after the text, not after its end.
    end = len(ids) - (special and ids[-1:] == [tokenizer.eos_token_id] and _adds_eos(tokenizer))
    # A rendered chat prompt begins with the token already.
    start = 0
    while starts_with_bos(tokenizer, ids[start:end]) and starts_with_bos(tokenizer, ids[start + 1 : end]):
        start += 1
    return start, end


def encode_with_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokenise one text as `encode` does, and tell which characters each token stands for.

    Raises:
        ValueError: The tokenizer is one of the slow ones, which cannot tell.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"words need a tokenizer that tells where its tokens stand in the text, got {type(tokenizer).__name__}, "
            "which does not. Set `model.tokenizer` to a fast one."
        )
    found = tokenizer(text, return_offsets_mapping=True, verbose=False)
    start, end = _own_tokens(tokenizer, found["input_ids"], special=True)
    return found["input_ids"][start:end], found["offset_mapping"][start:end]


def _tokenise(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> list[int]:
    # verbose=False: the tokenizer would warn of a long text, which is cropped or refused here.
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def _adds_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return _tokenise(tokenizer, "a")[-1:] == [tokenizer.eos_token_id]


def count_control(tokenizer: PreTrainedTokenizerBase, samples: Iterable[Sequence[int]]) -> int:
    """Count the control tokens inside samples: plain text such as `<s>` in HTML, or a chat template's.

    Args:
        tokenizer: The model's tokenizer. Its token for the unknown is none: any text may hold that.
        samples: Token ids; a beginning-of-text token at their start is as it should be.
    """
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id}
    control = (added | set(tokenizer.all_special_ids)) - unknown
    return sum(token in control for ids in samples for token in ids[starts_with_bos(tokenizer, ids) :])


def check_vocabulary(ids: Sequence[int], vocab_size: int, place: str) -> None:
    """Refuse token ids that the model has no row for; on a GPU they would end the process.

    Args:
        ids: Token ids of one sample, prompt or text.
        vocab_size: Rows of the model's embedding.
        place: What the message calls the sample.

    Raises:
        ValueError: An id is outside the model's rows.
    """
    lowest, highest = min(ids), max(ids)
    if lowest < 0 or highest >= vocab_size:
        raise ValueError(
            f"{place} must hold token ids between 0 and {vocab_size - 1}, got {lowest} to {highest}: they are of "
            "another model's tokenizer, or of one with more tokens than the model. Set `model.tokenizer`."
        )


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
) -> tuple[list[Tensor], Counter[str]]:
    """Tokenise samples for attribution, special tokens as the tokenizer adds them but an end-of-text token.

    Args:
        tokenizer: The model's tokenizer.
        texts: Pairs of place and text; the place is for messages.
        max_tokens: The longest sample, usually the model's context.
        on_too_long: What becomes of a longer one: its last tokens are kept (with a warning that counts), or an error.

    Returns:
        Token ids (T_s,) int64 of each sample; and counts: `num_truncated` samples, and those of `token_counts`.

    Raises:
        ValueError: A text is too long and is to be refused, or has no tokens.
    """
    samples, counts = [], token_counts()
    counts["num_truncated"] = 0
    for place, text in texts:
        ids = encode(tokenizer, text, counts=counts)
        if not ids:
            raise ValueError(f"{place}: the text has no tokens under this model's tokenizer. Remove it.")
        if len(ids) > max_tokens:
            _refuse(on_too_long, place, len(ids), max_tokens)
            counts["num_truncated"] += 1
        samples.append(keep_last(tokenizer, ids, max_tokens))
    _warn(counts["num_truncated"], len(samples), max_tokens)
    counts["num_control_tokens"] = count_control(tokenizer, samples)
    return [torch.tensor(ids, dtype=torch.int64) for ids in samples], counts


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
