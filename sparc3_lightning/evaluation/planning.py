"""What is to be generated: prompts tokenised, fitted into the context, ordered and dealt to processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from sparc3_lightning.data.batches import PADDING, plan_batches
from sparc3_lightning.data.tokens import check_vocabulary, count_control, encode, keep_last, token_counts
from sparc3_lightning.distributed.ranks import rank_and_world_size
from sparc3_lightning.evaluation.noise import noise_key


class TextPrompt(Protocol):
    """What generation needs of a prompt: `id` keys its noise, `text` is continued."""

    @property
    def id(self) -> str:
        """Unique among the prompts."""

    @property
    def text(self) -> str:
        """What is continued."""


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn; every parameter of the sampling is here, none is taken from the model's files.

    Attributes:
        max_new_tokens: length at most.
        temperature: divides the logits; 0 decodes greedily, without noise.
        top_p: smallest set of tokens with this probability is kept; 1 keeps all.
        num_completions: completions of each prompt.
        seed: of the noise.
    """

    max_new_tokens: int = 50
    temperature: float = 0.7
    top_p: float = 0.9
    num_completions: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be decoded with."""
        if self.max_new_tokens < 1 or self.num_completions < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "`decoding` needs max_new_tokens >= 1, num_completions >= 1, temperature >= 0 and 0 < top_p <= 1, got "
                f"{self}. Set `Evaluator.init_args.decoding`."
            )


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
        ValueError: no prompts, a prompt that is empty or holds tokens that the model has not, an id that comes twice
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
    """This rank's batches; every rank has as many, of the same sizes, fillers included.

    Args:
        plan: what is to be generated.
        batch_size: most completions in one.
        max_tokens: most tokens in one, padding and what is to be generated included; one completion may be longer.
    """
    lengths = [len(request.token_ids) + plan.max_new_tokens for request in plan.requests]
    rank, world = rank_and_world_size()
    batches = plan_batches(lengths, batch_size, max_tokens, rank=rank, world_size=world)
    return [[_FILLER if index == PADDING else plan.requests[index] for index in batch] for batch in batches]
