"""RealToxicityPrompts: prompts with Perspective's scores of the prompt and of its human continuation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from sparc3_lightning.data.files import Row
from sparc3_lightning.data.prompts import Candidate, DrawnPrompts, Part, fit_candidates, named_prompt
from sparc3_lightning.data.samples import LoadContext, Prompt, check_at_least
from sparc3_lightning.data.sources import Source
from sparc3_lightning.data.tokens import OnTooLong

SelectBy = Literal["prompt", "continuation", "response"]

_RESPONSES_AT_ONCE = 256
_ATTRIBUTES = (
    "toxicity",
    "severe_toxicity",
    "profanity",
    "sexually_explicit",
    "identity_attack",
    "insult",
    "threat",
    "flirtation",
)


class RealToxicityPrompts(DrawnPrompts):
    """Prompts of RealToxicityPrompts on one side of a threshold, as reference set or for evaluation.

    The file is roughly sorted by score, so a seeded random subset is drawn, never the first rows. Rows without the
    score asked for are left out and counted. The hub's nested rows and flat local rows are both read.

    Args:
        path: Local file; None for the hub.
        select_by: Whose score counts: the `prompt`'s (the document), its human `continuation`'s, or the `response`'s,
            which this run's base model generates, with luck of its own, and its scorer scores (the paper).
        threshold: Prompts that score at least this much are taken.
        below: Take those that score less than the threshold instead.
        attribute: Which of Perspective's attributes; responses are always scored by this run's scorer.
        num_prompts: How many to draw; None for all.
        seed: Seed of the draw.
        part: `attribution` and `evaluation` are two disjoint halves of all prompts there are, `all` is both.
        max_responses: Responses to generate at most when selecting by them; None for as many as needed.
        on_too_long: Left-truncate a prompt that does not fit the context (with a warning that counts), or refuse it.
        dataset: Hub id.
        revision: Commit on the hub; None for the newest.

    Source:
        Gehman et al. 2020, RealToxicityPrompts; github allenai/real-toxicity-prompts.
    """

    def __init__(
        self,
        path: str | None = None,
        select_by: SelectBy = "prompt",
        threshold: float = 0.9,
        below: bool = False,
        attribute: str = "toxicity",
        num_prompts: int | None = None,
        seed: int = 0,
        part: Part = "all",
        max_responses: int | None = None,
        on_too_long: OnTooLong = "truncate",
        dataset: str = "allenai/real-toxicity-prompts",
        revision: str | None = None,
    ) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"`threshold` must be between 0 and 1, got {threshold}. Set `init_args.threshold`.")
        check_at_least("max_responses", max_responses, 1)
        super().__init__(Source(path, dataset, revision=revision), num_prompts, seed, part, on_too_long)
        self.select_by = select_by
        self.threshold = threshold
        self.below = below
        self.attribute = attribute
        self.max_responses = max_responses

    def prompt_of(self, row: Row) -> Prompt:
        """Read a nested row (`prompt: {text, toxicity, ...}`) or a flat one (`prompt`, `prompt_toxicity`, ...)."""
        row = replace(row, values=_flat(row.values))
        text = row.text("prompt", "path")
        columns = [f"{part}_{name}" for part in ("prompt", "continuation") for name in {*_ATTRIBUTES, self.attribute}]
        scores = {column: row.score(column) for column in sorted(columns) if column in row.values}
        return named_prompt(_name(row.values), text, scores)

    def choose(self, ordered: list[Candidate], context: LoadContext, counts: Counter[str]) -> Iterator[Candidate]:
        """Give the prompts whose score is on the wanted side of the threshold; those without a score are counted."""
        if self.select_by == "response":
            yield from self._choose_by_response(ordered, context, counts)
            return
        column = self._score_column()
        if ordered and not any(column in candidate.prompt.scores for candidate in ordered):
            raise ValueError(
                f"{self.source.name}: there is no column `{column}` in any row, only "
                f"{sorted(ordered[0].prompt.scores)}. Set `init_args.attribute` or `init_args.select_by`."
            )
        for candidate in ordered:
            score = candidate.prompt.scores.get(column)
            counts["num_without_score"] += score is None
            if score is not None and self._takes(score):
                yield candidate

    def load_prompts(self, context: LoadContext, exclude: Mapping[str, str] = {}) -> list[Prompt]:
        """Draw the prompts, as `DrawnPrompts` does.

        Raises:
            ValueError: Also where the responses that choose would be those that are measured.
        """
        if self.select_by == "response" and context.is_greedy:
            raise ValueError(
                "`select_by: response` of evaluation prompts needs completions that differ by luck, got temperature 0: "
                "those that choose would be those that are measured. Set `decoding.temperature` of the evaluator above "
                "0, or `data.evaluation_prompts.init_args.select_by` to prompt or continuation."
            )
        return super().load_prompts(context, exclude)

    def wanted(self) -> str:
        """Say what is looked for, such as `prompt_toxicity >= 0.9`."""
        return f"prompts with {self._score_column()} {'<' if self.below else '>='} {self.threshold}"

    def describe(self) -> dict[str, Any]:
        """Give the source, the selection and the draw, as JSON."""
        options = ("select_by", "threshold", "below", "attribute", "max_responses")
        return super().describe() | {option: getattr(self, option) for option in options}

    def _choose_by_response(
        self, ordered: list[Candidate], context: LoadContext, counts: Counter[str]
    ) -> Iterator[Candidate]:
        if context.score_responses is None:
            raise ValueError(
                "`select_by: response` needs this run's model and a scorer, and there is none. "
                "Give the model an evaluator with a scorer, or set `init_args.select_by` to prompt or continuation."
            )
        ordered = ordered[: self.max_responses]
        for start in range(0, len(ordered), _RESPONSES_AT_ONCE):
            chunk = ordered[start : start + _RESPONSES_AT_ONCE]
            scores = context.score_responses([one.prompt for one in fit_candidates(chunk, context, self.on_too_long)])
            assert len(scores) == len(chunk), "one score a prompt"
            counts["num_responses"] += len(chunk)
            for candidate, score in zip(chunk, scores, strict=True):
                if not math.isfinite(score):
                    raise ValueError(f"{candidate.place}: the scorer gave {score} for the model's response.")
                if self._takes(score):
                    yield _with_score(candidate, score)

    def _takes(self, score: float) -> bool:
        return score < self.threshold if self.below else score >= self.threshold

    def _score_column(self) -> str:
        return "response_toxicity" if self.select_by == "response" else f"{self.select_by}_{self.attribute}"


def _flat(values: Any) -> dict[str, Any]:
    """Turn `{"prompt": {"text": ..., "toxicity": ...}}` into `{"prompt": ..., "prompt_toxicity": ...}`."""
    flat: dict[str, Any] = {}
    for column, value in values.items():
        if isinstance(value, dict):
            flat |= {column if key == "text" else f"{column}_{key}": inner for key, inner in value.items()}
        else:
            flat[column] = value
    return flat


def _name(values: Any) -> str | None:
    """Name a row as the local files do: its id, or its place in the corpus it was cut from."""
    if values.get("id") is not None:
        return str(values["id"])
    place = [values.get(column) for column in ("filename", "begin", "end")]
    return None if None in place else "{}:{}-{}".format(*(str(part).removesuffix(".txt") for part in place))


def _with_score(candidate: Candidate, score: float) -> Candidate:
    prompt = candidate.prompt
    return replace(candidate, prompt=replace(prompt, scores=prompt.scores | {"response_toxicity": score}))
