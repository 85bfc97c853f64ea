"""Sets of prompts, any file's and RealToxicityPrompts': how they are drawn, kept apart and fitted into the context."""

import hashlib
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from sparc3_lightning.data.samples import (
    LoadContext,
    Prompt,
    PromptSet,
    ReferenceSamples,
    ReferenceSet,
    check_at_least,
)
from sparc3_lightning.data.sources import Row, Source
from sparc3_lightning.data.tokens import OnTooLong, fit_texts
from sparc3_lightning.distributed.ranks import from_rank_zero

Part = Literal["all", "attribution", "evaluation"]
SelectBy = Literal["prompt", "continuation", "response"]

_RESPONSES_AT_ONCE = 256
_ATTRIBUTES = (
    "toxicity", "severe_toxicity", "profanity", "sexually_explicit", "identity_attack", "insult", "threat",
    "flirtation",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A prompt that may be drawn, and the place of its row for messages."""

    prompt: Prompt
    place: str


class DrawnPrompts(ReferenceSet, PromptSet):
    """A seeded random subset of the prompts of a source, for attribution or for evaluation.

    The order of the draw and the part a prompt belongs to follow from the prompt's text alone, so the same prompts are
    drawn from a local copy, from the hub, or from a file sorted otherwise.

    Attributes:
        source: Where the rows are.
        num_prompts: How many prompts to draw; None for all.
        seed: Seed of the draw.
        part: `attribution` and `evaluation` are two disjoint halves of all prompts there are, `all` is both.
        on_too_long: Left-truncate a prompt that does not fit the context (with a warning that counts), or refuse it.
        id_column: Column that names a prompt.
    """

    source: Source
    num_prompts: int | None
    seed: int
    part: Part
    on_too_long: OnTooLong
    id_column: str = "id"
    described: ClassVar[tuple[str, ...]] = ("num_prompts", "seed", "part", "on_too_long")
    _counts: Mapping[str, int] = {}

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        check_at_least("num_prompts", self.num_prompts, 1)

    @abstractmethod
    def prompt_of(self, row: Row) -> Prompt:
        """Read a row."""

    def choose(self, ordered: list[Candidate], context: LoadContext, counts: Counter[str]) -> Iterator[Candidate]:
        """Give those that qualify, in order. The default takes all; `counts` collects what was left out, and why."""
        yield from ordered

    def wanted(self) -> str:
        """Say in a message what `choose` looks for."""
        return "prompts"

    def load(self, context: LoadContext) -> ReferenceSamples:
        """Draw and tokenise the prompts, special tokens as the tokenizer adds them but an end-of-text token."""
        drawn, counts = self._draw(context, {})
        texts, names = [(one.place, one.prompt.text) for one in drawn], [one.prompt.id for one in drawn]
        return ReferenceSamples.of_texts(names, texts, context, self.on_too_long, {**self.describe(), **counts})

    def load_prompts(self, context: LoadContext, exclude: Mapping[str, str] = {}) -> list[Prompt]:
        """Draw the prompts and fit them into the context."""
        drawn, self._counts = self._draw(context, exclude)
        return [candidate.prompt for candidate in fit_candidates(drawn, context, self.on_too_long)]

    def may_share(self, prompts: PromptSet) -> bool:
        """Two different halves share nothing, whatever their sources."""
        return not (isinstance(prompts, DrawnPrompts) and {self.part, prompts.part} == {"attribution", "evaluation"})

    def describe(self) -> dict[str, Any]:
        """Give the source, the options, and what evaluation prompts left out, as JSON."""
        return super().describe() | ({"drawn_from": dict(self._counts)} if self._counts else {})

    def _draw(self, context: LoadContext, exclude: Mapping[str, str]) -> tuple[list[Candidate], Counter[str]]:
        # Rank 0 reads for all; on every rank, since the model may be asked, all choose.
        candidates, counts = from_rank_zero(lambda: self._read(exclude))
        drawn = []
        for candidate in self.choose(candidates, context, counts):
            drawn.append(candidate)
            if len(drawn) == self.num_prompts:
                break
        if len(drawn) < (self.num_prompts or 1):
            taken = (
                f"{counts['num_excluded']} are attributed, by {sorted(set(exclude.values()))}: give other prompts, or "
                "set `data.allow_overlap`. "
            )
            raise ValueError(
                f"`num_prompts` is {self.num_prompts or 'all'}, but {self.source.name} has only {len(drawn)} "
                f"{self.wanted()} in part `{self.part}` ({dict(counts)}). {taken if counts['num_excluded'] else ''}"
                "Lower `init_args.num_prompts`, or loosen the selection."
            )
        return drawn, counts

    def _read(self, exclude: Mapping[str, str]) -> tuple[list[Candidate], Counter[str]]:
        """Give what may be drawn, in the order of the draw, and how many of what was found."""
        counts: Counter[str] = Counter()

        candidates = self._candidates(exclude, counts)
        return sorted(candidates, key=lambda one: draw_order(self.seed, one.prompt.fingerprint)), counts

    def _candidates(self, exclude: Mapping[str, str], counts: Counter[str]) -> Iterator[Candidate]:
        seen: set[str] = set()
        # Names are one word; between texts stands a character that no prompt has (`Row.text` takes no half of a pair).
        texts = "\ud800".join(one for one in exclude if len(one.split()) > 1)
        places: dict[str, str] = {}
        for row in self.source.rows():
            prompt = self.prompt_of(row)
            counts["num_rows"] += 1
            if prompt.fingerprint in seen:
                counts["num_duplicates"] += 1
                continue
            if str(row.values.get(self.id_column)) == prompt.id:
                self._refuse_second(places.get(prompt.id), row, prompt.id)
                places[prompt.id] = row.place
            if prompt.id in exclude or prompt.fingerprint in exclude or prompt.text.strip() in texts:
                counts["num_excluded"] += 1
            elif in_part(self.part, prompt.fingerprint):
                yield Candidate(prompt, row.place)
            seen.add(prompt.fingerprint)

    def _refuse_second(self, first: str | None, row: Row, name: str) -> None:
        """An id is the key of a prompt's noise and its name in the results."""
        if first is not None:
            raise ValueError(
                f"{row.place}: the id {name!r} in column `{self.id_column}` is also that of {first}, another prompt. "
                "Give each prompt an id of its own, or set `init_args.id_column` of a PromptFile to a column that does "
                "(of a column that the file has not, the text is the name)."
            )


def draw_order(seed: int, name: str) -> str:
    """Sort by this for a random order that neither the file's order nor other rows can change.

    Args:
        seed: Seed of the draw.
        name: Fingerprint of the row's text.
    """
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def in_part(part: Part, name: str) -> bool:
    """Tell whether a prompt is of this part: the parity of its fingerprint says to which half it belongs."""
    return part in ("all", ("attribution", "evaluation")[int(name, 16) % 2])


# Annotations stand as types here, not as text (`from __future__`): else the parser would take any value.
@dataclass(eq=False)
class PromptFile(DrawnPrompts):
    """Prompts from any local file: one a row (jsonl, csv, parquet) or one a line (txt).

    Args:
        path: The file.
        prompt_column: Column that holds the prompt.
        id_column: Column that names it; where a file has none, a fingerprint of the text does.
        num_prompts: How many to draw; None for all.
        seed: Seed of the draw.
        part: `attribution` and `evaluation` are two disjoint halves of all prompts there are, `all` is both.
        on_too_long: Left-truncate a prompt that does not fit the context (with a warning that counts), or refuse it.
    """

    path: str
    prompt_column: str = "prompt"
    id_column: str = "id"
    num_prompts: int | None = None
    seed: int = 0
    part: Part = "all"
    on_too_long: OnTooLong = "truncate"

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        super().__post_init__()
        self.source = Source(self.path, "", text_column=self.prompt_column)

    def prompt_of(self, row: Row) -> Prompt:
        """Read a row."""
        text = row.text(self.prompt_column, "prompt_column")
        return named_prompt(row.values.get(self.id_column), text, {})


def named_prompt(name: Any, text: str, scores: dict[str, float | None]) -> Prompt:
    """Make a prompt; without a name, its text's fingerprint names it."""
    prompt = Prompt("" if name is None else str(name), text, scores)
    return prompt if prompt.id else replace(prompt, id=prompt.fingerprint)


def fit_candidates(candidates: Iterable[Candidate], context: LoadContext, on_too_long: OnTooLong) -> list[Candidate]:
    """Shorten the prompts to what the context holds beside their continuations."""
    candidates = list(candidates)
    max_tokens = context.max_length - context.reserve_tokens
    if max_tokens < 1:
        raise ValueError(
            f"`reserve_tokens` must be below the context of {context.max_length} tokens, got {context.reserve_tokens}. "
            "Set fewer new tokens for the continuations."
        )
    texts, _ = fit_texts(
        context.tokenizer, [(one.place, one.prompt.text) for one in candidates], max_tokens, on_too_long
    )
    return [replace(one, prompt=replace(one.prompt, text=text)) for one, text in zip(candidates, texts, strict=True)]


@dataclass(eq=False)
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

    described = (*DrawnPrompts.described, "select_by", "threshold", "below", "attribute", "max_responses")

    path: str | None = None
    select_by: SelectBy = "prompt"
    threshold: float = 0.9
    below: bool = False
    attribute: str = "toxicity"
    num_prompts: int | None = None
    seed: int = 0
    part: Part = "all"
    max_responses: int | None = None
    on_too_long: OnTooLong = "truncate"
    dataset: str = "allenai/real-toxicity-prompts"
    revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        super().__post_init__()
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"`threshold` must be between 0 and 1, got {self.threshold}. Set `init_args.threshold`.")
        check_at_least("max_responses", self.max_responses, 1)
        self.source = Source(self.path, self.dataset, revision=self.revision)

    def prompt_of(self, row: Row) -> Prompt:
        """Read a nested row (`prompt: {text, toxicity, ...}`) or a flat one (`prompt`, `prompt_toxicity`, ...)."""
        row = replace(row, values=flat_columns(row.values))
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
        """Draw the prompts, unless the responses that choose would be those that are measured."""
        if self.select_by == "response" and context.is_greedy:
            raise ValueError(
                "`select_by: response` of evaluation prompts needs completions that differ by luck, got temperature 0: "
                "those that choose would be those that are measured. Set `decoding.temperature` of the evaluator above "
                "0, or `data.evaluation_prompts.init_args.select_by` to prompt or continuation."
            )
        return super().load_prompts(context, exclude)

    def wanted(self) -> str:
        """Say what is looked for, such as `prompt_toxicity >= 0.9`; of a response, whatever the scorer judges."""
        by_response = self.select_by == "response"
        what = "prompts whose response scores" if by_response else f"prompts with {self._score_column()}"
        return f"{what} {'<' if self.below else '>='} {self.threshold}"

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
                    scored = candidate.prompt.scores | {"response_toxicity": score}
                    yield replace(candidate, prompt=replace(candidate.prompt, scores=scored))

    def _takes(self, score: float) -> bool:
        return score < self.threshold if self.below else score >= self.threshold

    def _score_column(self) -> str:
        return "response_toxicity" if self.select_by == "response" else f"{self.select_by}_{self.attribute}"


def flat_columns(values: Any) -> dict[str, Any]:
    """Turn `{"prompt": {"text": ..., "toxicity": ...}}` into `{"prompt": ..., "prompt_toxicity": ...}`."""
    flat: dict[str, Any] = {}
    for column, value in values.items():
        if isinstance(value, dict):
            flat |= {column if key == "text" else f"{column}_{key}": inner for key, inner in value.items()}
        else:
            flat[column] = value
    return flat


def highest_scores(row: Row, names: Iterable[str]) -> dict[str, float]:
    """Scores of a row by name: the highest of the column `NAME`, its prompt's and its continuation's, where known."""
    flat, found = replace(row, values=flat_columns(row.values)), {}
    for name in names:
        scores = [flat.score(column) for column in (name, f"prompt_{name}", f"continuation_{name}")]
        if known := [one for one in scores if one is not None]:
            found[name] = max(known)
    return found


def _name(values: Any) -> str | None:
    """Name a row as the local files do: its id, or its place in the corpus it was cut from."""
    if values.get("id") is not None:
        return str(values["id"])
    place = [values.get(column) for column in ("filename", "begin", "end")]
    return None if None in place else "{}:{}-{}".format(*(str(part).removesuffix(".txt") for part in place))
