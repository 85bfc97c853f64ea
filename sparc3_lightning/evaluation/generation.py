"""Completions of prompts: planned, batched, left-padded, and drawn with noise that pairs before and after."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sparc3_lightning.data.batches import PADDING, plan_batches
from sparc3_lightning.data.tokens import check_vocabulary, count_control, encode, keep_last, token_counts
from sparc3_lightning.distributed.owners import is_sharded
from sparc3_lightning.distributed.ranks import gather_objects, raise_together, rank_and_world_size
from sparc3_lightning.evaluation.sampling import noise_key, sample
from sparc3_lightning.loops import Counted, Progress, no_progress
from sparc3_lightning.metrics.measure import Completion, TextPrompt
from sparc3_lightning.models.load import context_length


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn; every parameter of the sampling is here, none is taken from the model's files.

    Attributes:
        max_new_tokens: Length at most.
        temperature: Divides the logits; 0 decodes greedily, without noise.
        top_p: Smallest set of tokens with this probability is kept; 1 keeps all.
        num_completions: Completions of each prompt.
        seed: Of the noise.
        min_new_tokens: Length at least: before it no token that ends a text is drawn. As many as `max_new_tokens` make
            all completions of one length, where a score of theirs depends on it, as repetition does.
    """

    max_new_tokens: int = 50
    temperature: float = 0.7
    top_p: float = 0.9
    num_completions: int = 1
    seed: int = 0
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be decoded with."""
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"`min_new_tokens` must be from 0 to `max_new_tokens` = {self.max_new_tokens}, got "
                f"{self.min_new_tokens}. Set `Evaluator.init_args.decoding.min_new_tokens`."
            )
        if self.max_new_tokens < 1 or self.num_completions < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "`decoding` needs max_new_tokens >= 1, num_completions >= 1, temperature >= 0 and 0 < top_p <= 1, got "
                f"{self}. Set `Evaluator.init_args.decoding`."
            )

    def setting(self) -> dict[str, Any]:
        """All that completions depend on, as JSON; no minimum where there is none, as before it could be set."""
        options = asdict(self)
        return options if self.min_new_tokens else {key: options[key] for key in options if key != "min_new_tokens"}


@dataclass(frozen=True)
class Request:
    """One completion to be generated: prompt number, completion number, the prompt's token ids and the noise's key."""

    prompt: int
    completion: int
    token_ids: list[int]
    key: int


@dataclass(frozen=True)
class Plan:
    """What is to be generated, longest prompts first.

    Attributes:
        requests: One a completion.
        max_new_tokens: Length of each at most.
        num_truncated: Prompts that had to be cut to fit the context.
        token_counts: What was found in the prompts' token ids; see `data.tokens.token_counts`.
    """

    requests: list[Request]
    max_new_tokens: int
    num_truncated: int
    token_counts: dict[str, int]


# A filler keeps a rank in step with the others; what it generates is thrown away.
_FILLER = Request(prompt=-1, completion=-1, token_ids=[0], key=0)


class Generated(NamedTuple):
    """What `generate` gives.

    Attributes:
        completions: Of each prompt, in its order.
        num_truncated: Prompts cut to leave room in the context.
        token_counts: What was found in the prompts' token ids; see `data.tokens.token_counts`.
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
        model: A causal language model.
        tokenizer: Its tokenizer; a padding token is not needed.
        prompts: The same on every rank.
        decoding: How to decode.
        batch_size: Most completions generated at once on one rank.
        max_tokens: Most tokens of them, padding and what is to be generated included; one completion may be longer.
        progress: Wraps the batches.
        receive: Takes each batch of this rank as soon as it is there.

    Returns:
        Each prompt's completions, the same on every rank, and how many prompts were cut.

    Raises:
        ValueError: An empty or repeated prompt, no room in the context, or logits that are not finite.
    """
    plan = plan_requests(tokenizer, prompts, decoding, context_length(model), model.config.vocab_size)
    batches = request_batches(plan, batch_size, max_tokens)
    mine: list[Completion] = []

    def work(batch: Sequence[Request]) -> None:
        done = complete(model, tokenizer, batch, decoding)
        if receive is not None:
            receive(done)
        mine.extend(done)

    counted = Counted(batches, "completions", sum(map(_num_real, batches)), _num_real)
    for batch in progress(counted, len(batches), "generate" if receive is None else "generate and score"):
        # What fails on one rank is raised on all, which would otherwise wait for it.
        raise_together(partial(work, batch), (ValueError, OSError), model.device)
    arranged = _arrange(gather_objects(mine), len(prompts), decoding.num_completions)
    return Generated(arranged, plan.num_truncated, plan.token_counts)


def _num_real(batch: Sequence[Request]) -> int:
    return sum(request.prompt >= 0 for request in batch)


def _arrange(completions: Sequence[Completion], num_prompts: int, num_completions: int) -> list[list[Completion]]:
    """Completions in any order, nested in their prompts."""
    by_place = {(item.prompt, item.completion): item for item in completions}
    assert len(by_place) == len(completions) == num_prompts * num_completions
    return [[by_place[i, j] for j in range(num_completions)] for i in range(num_prompts)]


def plan_requests(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TextPrompt],
    decoding: Decoding,
    max_length: int,
    vocab_size: int,
) -> Plan:
    """Tokenise prompts, make room for the completion, and order by length.

    A prompt that leaves no room keeps its end (and its beginning-of-text token): the end is what is continued.

    Raises:
        ValueError: No prompts, a prompt that is empty or holds tokens that the model has not, an id that comes twice
            (its noise would), or a context that holds no prompt beside the completion.
    """
    room = max_length - decoding.max_new_tokens
    if room < 2:
        raise ValueError(
            f"`max_new_tokens` must leave room for a prompt in the model's {max_length} tokens, got "
            f"{decoding.max_new_tokens}. Set `Evaluator.init_args.decoding.max_new_tokens`."
        )
    if len({prompt.id for prompt in prompts}) != len(prompts) or not prompts:
        raise ValueError(f"`prompts` must be at least one and have ids of their own, got {len(prompts)} prompts.")
    counts = token_counts()
    token_ids = [encode(tokenizer, prompt.text, counts=counts) for prompt in prompts]
    for prompt, ids in zip(prompts, token_ids, strict=True):
        if not prompt.text.strip() or not ids:
            raise ValueError(f"prompt `{prompt.id}` is empty. Remove it from `evaluation_prompts`.")
        check_vocabulary(ids, vocab_size, f"prompt `{prompt.id}` of `evaluation_prompts`")
    fitted = [keep_last(tokenizer, ids, room) for ids in token_ids]
    counts["num_control_tokens"] = count_control(tokenizer, fitted)
    requests = [
        Request(i, j, fitted[i], noise_key(decoding.seed, prompt.id, j))
        for i, prompt in enumerate(prompts)
        for j in range(decoding.num_completions)
    ]
    # Stable, so that equal lengths keep their order; longest first, so that memory runs out at once or never.
    requests.sort(key=lambda request: -len(request.token_ids))
    return Plan(requests, decoding.max_new_tokens, sum(len(ids) > room for ids in token_ids), dict(counts))


def request_batches(plan: Plan, batch_size: int, max_tokens: int) -> list[list[Request]]:
    """This rank's batches; every rank has as many, of the same sizes, fillers included; see `generate`."""
    lengths = [len(request.token_ids) + plan.max_new_tokens for request in plan.requests]
    rank, world = rank_and_world_size()
    batches = plan_batches(lengths, batch_size, max_tokens, rank=rank, world_size=world)
    return [[_FILLER if index == PADDING else plan.requests[index] for index in batch] for batch in batches]


@torch.no_grad()
def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Request], decoding: Decoding
) -> list[Completion]:
    """Generate one batch.

    Returns:
        The batch's completions; fillers are left out.

    Raises:
        ValueError: The model's logits were not finite.
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
            **_read_once(model, batch, input_ids, mask),
            # Replicas end their batches each for itself: no message for every token.
            synced_gpus=is_sharded(model),
        )
    check.raise_if_broken(batch)
    completions = []
    for request, ids in zip(batch, output[:, input_ids.shape[1] :].tolist(), strict=True):
        kept = ids[: next((n for n, token in enumerate(ids) if token in ends), len(ids))]
        text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        completions.append(Completion(request.prompt, request.completion, kept, text))
    return [item for item in completions if item.prompt >= 0]


def _read_once(
    model: PreTrainedModel, batch: Sequence[Request], input_ids: Tensor, mask: Tensor
) -> dict[str, DynamicCache]:
    """Keys and values of all but the last token of each prompt, read once for all of its completions in the batch.

    Nothing where nothing is gained.
    """
    if not reads_once(model, batch):
        return {}
    firsts: dict[int, int] = {}
    rows = [firsts.setdefault(request.prompt, place) for place, request in enumerate(batch)]
    read = torch.tensor([*firsts.values()], device=input_ids.device)
    places = (mask[read].cumsum(1) - 1).clamp(min=0)
    # transformers 5.24 gave it another name.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    cache = DynamicCache(config=model.config)
    model(
        input_ids=input_ids[read, :-1], attention_mask=mask[read, :-1], position_ids=places[:, :-1], use_cache=True,
        **{name: cache}, **last_logits(model, 1),
    )  # fmt: skip
    order = {first: number for number, first in enumerate(firsts.values())}
    cache.batch_select_indices(torch.tensor([order[first] for first in rows], device=input_ids.device))
    return {name: cache}


def reads_once(model: PreTrainedModel, batch: Sequence[Request]) -> bool:
    """Whether a batch begins with one pass over its prompts, each read for all of its completions.

    Not of a sharded model: its ranks must make the same passes, whatever their batches hold.
    """
    is_repeated = len({request.prompt for request in batch}) < len(batch)
    return is_repeated and not is_sharded(model) and max(len(request.token_ids) for request in batch) > 1


def last_logits(model: PreTrainedModel, number: int) -> dict[str, int]:
    """The option that asks for logits of the last so many positions alone, of models that know it."""
    return {"logits_to_keep": number} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


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


def _generation_config(decoding: Decoding, ends: list[int]) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens or None,
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


class _Sample(LogitsProcessor):  # type: ignore[misc]
    """Leaves each row the one token that its own noise draws."""

    def __init__(self, keys: Tensor, prompt_width: int, temperature: float, top_p: float) -> None:
        self._keys, self._prompt_width = keys, prompt_width
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self._prompt_width
        drawn = sample(scores / self._temperature, self._top_p, self._keys, step)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


def _processors(batch: Sequence[Request], decoding: Decoding, input_ids: Tensor) -> tuple[_FiniteCheck, Any]:
    check = _FiniteCheck(len(batch), input_ids.device)
    processors: list[LogitsProcessor] = [check]
    if decoding.temperature > 0:
        keys = torch.tensor([request.key for request in batch], dtype=torch.int64, device=input_ids.device)
        processors.append(_Sample(keys, input_ids.shape[1], float(decoding.temperature), decoding.top_p))
    return check, LogitsProcessorList(processors)
