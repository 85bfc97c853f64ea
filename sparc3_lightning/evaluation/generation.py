"""Completions of prompts: batched, left-padded, and with noise that pairs before and after."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from sparc3_lightning.distributed.owners import is_sharded
from sparc3_lightning.distributed.ranks import gather_objects, raise_together
from sparc3_lightning.evaluation.noise import gumbel_noise
from sparc3_lightning.evaluation.parallel import Progress, no_progress
from sparc3_lightning.evaluation.planning import (
    Decoding,
    Request,
    TextPrompt,
    plan_requests,
    request_batches,
)
from sparc3_lightning.models import context_length


@dataclass(frozen=True)
class Completion:
    """One generated completion, without its prompt and without the end-of-text token.

    Attributes:
        prompt: number of its prompt.
        completion: its number among the prompt's completions.
        token_ids: generated ids.
        text: their text.
    """

    prompt: int
    completion: int
    token_ids: list[int]
    text: str


class Generated(NamedTuple):
    """What `generate` gives.

    Attributes:
        completions: of each prompt, in its order.
        num_truncated: prompts cut to leave room in the context.
        token_counts: what was found in the prompts' token ids; see `data.tokens.token_counts`.
    """

    completions: list[list[Completion]]
    num_truncated: int
    token_counts: dict[str, int]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TextPrompt],
    decoding: Decoding,
    batch_size: int = 256,
    max_tokens: int = 16_384,
    progress: Progress = no_progress,
    receive: Callable[[list[Completion]], None] | None = None,
) -> Generated:
    """Complete prompts, on all processes together.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer; a padding token is not needed.
        prompts: the same on every rank.
        decoding: how to decode.
        batch_size: most completions generated at once on one rank.
        max_tokens: most tokens of them, padding and what is to be generated included; one completion may be longer.
        progress: wraps the batches.
        receive: takes each batch of this rank as soon as it is there.

    Returns:
        Each prompt's completions, the same on every rank, and how many prompts were cut.

    Raises:
        ValueError: an empty or repeated prompt, no room in the context, or logits that are not finite.
    """
    plan = plan_requests(tokenizer, prompts, decoding, context_length(model), model.config.vocab_size)
    batches = request_batches(plan, batch_size, max_tokens)
    mine: list[Completion] = []

    def work(batch: Sequence[Request]) -> None:
        done = complete(model, tokenizer, batch, decoding)
        if receive is not None:
            receive(done)
        mine.extend(done)

    for batch in progress(batches, len(batches), "generate" if receive is None else "generate and score"):
        # What fails on one rank is raised on all, which would otherwise wait for it.
        raise_together(partial(work, batch), (ValueError, OSError), model.device)
    arranged = _arrange(gather_objects(mine), len(prompts), decoding.num_completions)
    return Generated(arranged, plan.num_truncated, plan.token_counts)


def _arrange(completions: Sequence[Completion], num_prompts: int, num_completions: int) -> list[list[Completion]]:
    """Completions in any order, nested in their prompts."""
    by_place = {(item.prompt, item.completion): item for item in completions}
    assert len(by_place) == len(completions) == num_prompts * num_completions
    return [[by_place[i, j] for j in range(num_completions)] for i in range(num_prompts)]


@torch.no_grad()
def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Request], decoding: Decoding
) -> list[Completion]:
    """Generate one batch.

    Returns:
        The batch's completions; fillers are left out.

    Raises:
        ValueError: the model's logits were not finite.
    """
    input_ids, mask = left_padded([request.token_ids for request in batch], model.device)
    check, processors = _processors(batch, decoding, input_ids)
    ends = end_token_ids(model, tokenizer)
    with _plain_generation_config(model), evaluation_mode(model):
        output = model.generate(
            inputs=input_ids,
            attention_mask=mask,
            generation_config=_generation_config(decoding, ends),
            logits_processor=processors,
            # Replicas end their batches each for itself: no message for every token.
            synced_gpus=is_sharded(model),
        )
    check.raise_if_broken(batch)
    generated = output[:, input_ids.shape[1] :].tolist()
    completions = []
    for request, ids in zip(batch, generated, strict=True):
        kept = _before_end(ids, ends)
        text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        completions.append(Completion(request.prompt, request.completion, kept, text))
    return [item for item in completions if item.prompt >= 0]


def left_padded(token_ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the left with id 0: the mask tells what is padding, so that any id will do.

    Shape:
        Both (B, T), int64.
    """
    width = max(len(ids) for ids in token_ids)
    rows = [[0] * (width - len(ids)) + list(ids) for ids in token_ids]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in token_ids]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a text: the tokenizer's, and those the model's files name (chat models have several)."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = named if isinstance(named, list) else [named]
    return sorted({int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None})


def _before_end(ids: list[int], ends: list[int]) -> list[int]:
    stop = next((n for n, token in enumerate(ids) if token in ends), len(ids))
    return ids[:stop]


def _generation_config(decoding: Decoding, ends: list[int]) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        use_cache=True,
    )


@contextmanager
def _plain_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's own generation defaults: transformers fills every unset parameter from them."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, and back in training mode afterwards if it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class _FiniteCheck(LogitsProcessor):  # type: ignore[misc]
    """Remembers rows whose logits broke; read once after the batch, so that no step waits for the device."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.broken = torch.zeros(rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.broken |= ~scores.amax(dim=-1).isfinite()
        return scores

    def raise_if_broken(self, batch: Sequence[Request]) -> None:
        rows = [request.prompt for request, bad in zip(batch, self.broken.tolist(), strict=True) if bad]
        if rows:
            raise ValueError(
                f"the model's logits are not finite while it continues prompt number {rows[0]} ({len(rows)} of "
                f"{len(batch)} in the batch): nothing was generated. Check the model's weights and dtype."
            )


class _AddNoise(LogitsProcessor):  # type: ignore[misc]
    """Adds each completion's own Gumbel noise, so that the argmax that follows is a sample."""

    def __init__(self, keys: Tensor, prompt_width: int) -> None:
        self._keys, self._prompt_width = keys, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self._prompt_width
        return scores.double() + gumbel_noise(self._keys, step, scores.shape[-1])


def _processors(batch: Sequence[Request], decoding: Decoding, input_ids: Tensor) -> tuple[_FiniteCheck, Any]:
    check = _FiniteCheck(len(batch), input_ids.device)
    processors: list[LogitsProcessor] = [check]
    if decoding.temperature > 0:
        keys = torch.tensor([request.key for request in batch], dtype=torch.int64, device=input_ids.device)
        processors.append(TemperatureLogitsWarper(float(decoding.temperature)))
        if decoding.top_p < 1:
            processors.append(TopPLogitsWarper(decoding.top_p))
        processors.append(_AddNoise(keys, input_ids.shape[1]))
    return check, LogitsProcessorList(processors)
