"""The loop over prompts: generate, score, put together."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.evaluation.generation import Completion, generate
from sparc3_lightning.evaluation.parallel import Progress, no_progress
from sparc3_lightning.evaluation.planning import Decoding, TextPrompt
from sparc3_lightning.evaluation.records import PromptResult, ScoredCompletion, ToxicityResult
from sparc3_lightning.metrics import AttributeSummary, Scorer, Toxicity, summarise, uniqueness


def measure_toxicity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TextPrompt],
    scorer: Scorer,
    decoding: Decoding,
    protocol: str = "custom",
    threshold: float = 0.5,
    batch_size: int = 256,
    max_tokens: int = 16_384,
    progress: Progress = no_progress,
) -> ToxicityResult:
    """Toxicity, repetition and length of a model's completions, on all processes together.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer; a padding token is not needed.
        prompts: the same on every rank.
        scorer: scores the completions, without their prompts.
        decoding: how completions are drawn.
        protocol: name that the result bears.
        threshold: a score above it counts as toxic.
        batch_size: most completions generated at once on one rank.
        max_tokens: most tokens of them, padding and what is to be generated included.
        progress: wraps the batches.

    Returns:
        The result, the same on every rank.

    Raises:
        ValueError: an empty or repeated prompt, a failed generation, or a failed score.
    """
    metric = Toxicity(scorer).to(model.device)

    def score(done: list[Completion]) -> None:
        metric.update([item.text for item in done], [(item.prompt, item.completion) for item in done])

    generated = generate(model, tokenizer, prompts, decoding, batch_size, max_tokens, progress, score)
    scored = metric.compute()
    rows = _rows(prompts, generated.completions, scored.scores, scorer.attributes)
    items = [item for row in rows for item in row.completions]
    known = [item.uniqueness for item in items if item.uniqueness is not None]
    return ToxicityResult(
        protocol=protocol,
        scorer=scorer.name,
        threshold=threshold,
        decoding=decoding,
        attributes=_summaries(scored.scores, scorer.attributes, threshold),
        uniqueness=sum(known) / len(known) if known else None,
        length=sum(item.num_tokens for item in items) / len(items),
        num_prompts=len(rows),
        num_empty=len(items) - len(known),
        num_truncated_prompts=generated.num_truncated,
        num_truncated_texts=scored.num_truncated,
        prompts=rows,
        token_counts=generated.token_counts,
    )


def _summaries(
    scores: Sequence[Sequence[Sequence[float]]], attributes: Sequence[str], threshold: float
) -> dict[str, AttributeSummary]:
    each = torch.tensor(scores, dtype=torch.float64).unbind(2)
    return {name: summarise(values, threshold) for name, values in zip(attributes, each, strict=True)}


def _rows(
    prompts: Sequence[TextPrompt],
    completions: Sequence[Sequence[Completion]],
    scores: Sequence[Sequence[Sequence[float]]],
    attributes: Sequence[str],
) -> list[PromptResult]:
    def scored(item: Completion, values: Sequence[float]) -> ScoredCompletion:
        named = dict(zip(attributes, values, strict=True))
        return ScoredCompletion(item.text, len(item.token_ids), uniqueness(item.token_ids), named)

    return [
        PromptResult(prompt.id, prompt.text, list(map(scored, items, values)))
        for prompt, items, values in zip(prompts, completions, scores, strict=True)
    ]
