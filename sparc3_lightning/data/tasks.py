"""Tasks with a right and a wrong next token: samples whose target is the contrast of the two (method.md, section 1)."""

import json
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparc3_lightning.data.prompts import Part, draw_order, flat_columns, in_part
from sparc3_lightning.data.samples import LoadContext, ReferenceSamples, ReferenceSet, check_at_least, fingerprint
from sparc3_lightning.data.sources import Row, Source
from sparc3_lightning.data.tokens import check_vocabulary, encode, starts_with_bos
from sparc3_lightning.data.words import Cut, joined_text, possible_cuts
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.files import json_sha256
from sparc3_lightning.wording import task_name

_LISTS = ("names", "places", "objects", "templates")
_DRAWS_A_SAMPLE = 50


def tasks_of(sets: Mapping[str, ReferenceSet]) -> dict[str, list[str]]:
    """Names of the sets by task, and a name for each: sets that differ in `seed` alone are draws of one task."""
    groups: dict[str, list[str]] = {}
    for name, one in sets.items():
        groups.setdefault(json_sha256({**one.describe(), "seed": None}), []).append(name)
    draws = list(groups.values())
    names = [task_name(of_task) for of_task in draws]
    is_unique = len(set(names)) == len(names)
    return {name if is_unique else of_task[0]: of_task for name, of_task in zip(names, draws, strict=True)}


def held_out_sets(
    evaluation_task: ReferenceSet | Mapping[str, ReferenceSet] | None, sets: Mapping[str, ReferenceSet]
) -> dict[str, tuple[str, ReferenceSet]]:
    """What circuits are asked beside their own samples: by task, the key of the config and its set.

    Args:
        evaluation_task: One for the one task there is; of several tasks one each, by the name of the task or of a draw.
        sets: The tasks' draws; see `tasks_of`.

    Returns:
        Nothing where nothing is held out.

    Raises:
        ValueError: A task has none, or more than one, or a name is no task's.
    """
    if evaluation_task is None:
        return {}
    tasks = tasks_of(sets)
    if not isinstance(evaluation_task, Mapping) and len(tasks) == 1:
        return {next(iter(tasks)): ("data.evaluation_task", evaluation_task)}
    task_of = {name: task for task, draws in tasks.items() for name in (*draws, task)}
    given = evaluation_task if isinstance(evaluation_task, Mapping) else {}
    named = [task_of.get(name) for name in given]
    if sorted(map(str, named)) != sorted(tasks):
        got = list(given) if isinstance(evaluation_task, Mapping) else "a single set"
        raise ValueError(
            f"`data.evaluation_task` must hold one set for each task of {list(tasks)}, by its name, got {got}. Set "
            f"{', '.join(f'`data.evaluation_task.{task}`' for task in tasks)}; or let `data.behaviours` differ in "
            "`seed` alone, which makes one task of them."
        )
    return {
        str(task): (f"data.evaluation_task.{name}", one) for task, (name, one) in zip(named, given.items(), strict=True)
    }


@dataclass(frozen=True)
class Question:
    """A prompt and what may follow it.

    Attributes:
        name: Of the sample.
        prompt: Without the answer.
        right: The right answer.
        wrong: The wrong one.
        corrupted: The prompt with what decides the answer changed, as long in tokens; None for none.
        place: Where it stands, for messages.
        scene: Names those that are asked one after the other, together or not at all.
        group: Names what it is made of, such as its template: what is held out shares none.
        separator: What stands between prompt and answer; None for a space, unless either brings white space.
    """

    name: str
    prompt: str
    right: str
    wrong: str
    corrupted: str | None
    place: str
    scene: str
    group: str
    separator: str | None = None


# Annotations stand as types here, not as text (`from __future__`): else the parser would take any value.
@dataclass(eq=False)
class TaskSet(ReferenceSet):
    """Samples that a right token follows, contrasted with a wrong one; each may have a corrupted twin.

    `model.target: next_token` explains the difference of the two. What the twins are for: `CircuitCallback`.
    """

    described: ClassVar[tuple[str, ...]] = ("num_samples", "seed", "part")

    num_samples: int = 128
    seed: int = 0
    part: Part = "all"

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        check_at_least("num_samples", self.num_samples, 1)

    @abstractmethod
    def questions(self, context: LoadContext) -> Iterator[Question]:
        """Give questions in the order of the draw, more than are asked for where there are more."""

    def load(self, context: LoadContext) -> ReferenceSamples:
        """Draw and tokenise the samples, on rank 0 for all."""
        return from_rank_zero(lambda: self._drawn(context))

    def _drawn(self, context: LoadContext) -> ReferenceSamples:
        counts: Counter[str] = Counter()
        found: list[tuple[Question, _Tokens]] = []
        for _, questions in groupby(self.questions(context), lambda question: question.scene):
            if len(found) >= self.num_samples:
                break
            together = list(questions)
            tokens = [_tokens_of(question, context) for question in together]
            asked = [one for one in tokens if not isinstance(one, str)]
            if len(asked) == len(together):
                found += zip(together, asked, strict=True)
            else:
                counts[next(one for one in tokens if isinstance(one, str))] += len(together)
        if len(found) < self.num_samples:
            raise ValueError(
                f"`num_samples` is {self.num_samples}, but of part {self.part!r} there are only {len(found)} that this "
                f"tokenizer can ask{_left_out(counts)}. Lower `init_args.num_samples`, set `part: all`, or give more."
            )
        return self._samples(found[: self.num_samples], counts)

    def _samples(self, found: "Sequence[tuple[Question, _Tokens]]", counts: Mapping[str, int]) -> ReferenceSamples:
        twins = [tokens.corrupted for _, tokens in found if tokens.corrupted is not None]
        if 0 < len(twins) < len(found):
            raise ValueError(
                f"every row must have a corrupted twin, or none, got {len(twins)} of {len(found)}. Correct the rows, "
                "or set `init_args.corrupted_column`."
            )
        return ReferenceSamples(
            ids=[tokens.prompt for _, tokens in found],
            source=self.describe() | dict(counts) | {"bos": found[0][1].has_bos},
            sample_ids=[question.name for question, _ in found],
            fingerprints=[fingerprint(question.prompt) for question, _ in found],
            following=[torch.tensor([tokens.right]) for _, tokens in found],
            against=[tokens.wrong for _, tokens in found],
            corrupted=twins,
            scenes=[question.scene for question, _ in found],
            groups=[question.group for question, _ in found],
        )


@dataclass(frozen=True)
class _Tokens:
    prompt: Tensor
    right: int
    wrong: int
    corrupted: Tensor | None
    has_bos: bool


def _cuts(question: Question, answer: str, context: LoadContext) -> list[Cut]:
    text, span = joined_text(question.prompt, answer, question.separator)
    return possible_cuts(context, text, context.max_length, [span])


def _left_out(counts: Mapping[str, int]) -> str:
    return f" (left out: {', '.join(f'{name} {num}' for name, num in counts.items())})" if counts else ""


def _tokens_of(question: Question, context: LoadContext) -> _Tokens | str:
    """The question's tokens; or why this tokenizer cannot ask it, as a count's name."""
    cuts = [cut for answer in (question.right, question.wrong) for cut in _cuts(question, answer, context)]
    if len(cuts) < 2 or cuts[0].prefix != cuts[1].prefix:
        return "num_uncut"
    right, wrong = (cut.word[0] for cut in cuts)
    if right == wrong:
        return "num_alike"
    corrupted = None
    if question.corrupted is not None:
        corrupted = torch.tensor(encode(context.tokenizer, question.corrupted))
        if len(corrupted) != len(cuts[0].prefix) or corrupted.tolist() == cuts[0].prefix:
            return "num_of_unequal_twins"
    if context.vocab_size is not None:
        twin = [] if corrupted is None else corrupted.tolist()
        check_vocabulary([*cuts[0].prefix, right, wrong, *twin], context.vocab_size, question.place)
    has_bos = bool(starts_with_bos(context.tokenizer, cuts[0].prefix))
    return _Tokens(torch.tensor(cuts[0].prefix), right, wrong, corrupted, has_bos)


@dataclass(eq=False)
class IOI(TaskSet):
    """Indirect objects: who was given something? "When Anna and Tom met, Tom handed a book to" goes on with " Anna".

    The wrong answer is the subject, " Tom"; the corrupted twin has a third name as its subject. Each sentence is asked
    twice, one after the other, the names' roles exchanged: "When Anna and Tom met, Anna handed a book to" goes on with
    " Tom". So a name is right as often as it is wrong, the right one stands first as often as second, and the logit
    differences of a model that does not read who acts add up to 0, whatever it knows of names. Only names are taken
    that are one token of this tokenizer after a space.

    Args:
        num_samples: How many samples; an odd number leaves the last one without its other half.
        seed: Seed of the draw.
        part: Templates: `attribution` takes every second one, `evaluation` the others, `all` both.
        path: Local JSON of lists, `names`, `places`, `objects` and `templates`, the last with [A] (the indirect object,
            with which each must end), [B] (the subject), [PLACE] and [OBJECT]; None for the project's own. The lists
            of ACDC's code (`NAMES`, `BABA_TEMPLATES`, ...), saved as JSON, will do.

    Source: Wang et al., ICLR 2023 (arXiv 2211.00593), Sec. 3.
    """

    path: str | None = None

    def describe(self) -> dict[str, Any]:
        """Give the options and where the lists are from."""
        return {**super().describe(), "lists": self.path or "the project's own"}

    def questions(self, context: LoadContext) -> Iterator[Question]:
        """Draw them, none twice, with the names' roles exchanged in every second one."""
        lists = OWN_LISTS if self.path is None else read_lists(self.path)
        names = [name for name in dict.fromkeys(lists["names"]) if _is_one_token(name, context)]
        templates = {"all": lists["templates"], "attribution": lists["templates"][::2]}.get(
            self.part, lists["templates"][1::2]
        )
        if len(names) < 3 or not templates:
            raise ValueError(
                f"the lists must hold three names that are one token each, and a template of part {self.part!r}, got "
                f"{len(names)} and {len(templates)}. Set `init_args.path`."
            )
        drawn, seen = random.Random(f"{self.seed} {self.part}"), set[str]()
        for _ in range(_DRAWS_A_SAMPLE * self.num_samples):
            made = _scene(drawn, templates, names, lists["places"], lists["objects"])
            if made[0].prompt not in seen:
                seen |= {one.prompt for one in made}
                yield from made


def _is_one_token(name: str, context: LoadContext) -> bool:
    """Whether a name inside a sentence is: by itself some tokenizers put a token before it."""
    cuts = possible_cuts(context, f"to {name}", context.max_length, [(3, 3 + len(name))])
    return len(cuts) == 1 and len(cuts[0].word) == 1


def _scene(
    drawn: random.Random, templates: Sequence[str], names: Sequence[str], places: Sequence[str], objects: Sequence[str]
) -> list[Question]:
    """Two questions that differ in who acts alone: what is right in one is wrong in the other."""
    template, (one, other, third) = drawn.choice(templates), drawn.sample(names, 3)
    text = template.replace("[PLACE]", drawn.choice(places)).replace("[OBJECT]", drawn.choice(objects))
    first, second = sorted((text.index("[A]"), text.index("[B]")))
    exchanged = text[:first] + text[second : second + 3] + text[first + 3 : second] + text[first : first + 3] + text[
        second + 3 :
    ]  # fmt: skip
    names_of = {"scene": " ".join((text, one, other)), "group": template.replace("[B]", "[A]")}  # of both orders
    named = {key: fingerprint(name) for key, name in names_of.items()}
    return [_question(text, one, other, third, **named), _question(exchanged, other, one, third, **named)]


def _question(text: str, right: str, wrong: str, third: str, scene: str, group: str) -> Question:
    text = text.removesuffix("[A]").rstrip()
    start, end = text.rindex("[B]"), text.rindex("[B]") + 3
    twin = text[:start] + third + text[end:]
    prompt, corrupted = (one.replace("[A]", right).replace("[B]", wrong) for one in (text, twin))
    return Question(fingerprint(prompt), prompt, right, wrong, corrupted, f"{prompt!r}", scene, group)


def read_lists(path: str) -> dict[str, list[str]]:
    """Read names, places, objects and templates from a JSON file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A list is missing or empty, or a template lacks a place or does not end with [A].
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"`path` must be an existing file, got {path!r}. Set `init_args.path`.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file.name} must be JSON, got {error}. Correct the file, or set `init_args.path`.") from None
    found = {key.lower(): value for key, value in found.items()} if isinstance(found, dict) else {}
    found.setdefault("templates", found.get("baba_templates"))
    for name in _LISTS:
        values = found.get(name)
        if not isinstance(values, list) or not values or not all(isinstance(one, str) and one for one in values):
            raise ValueError(f"{file.name} must hold a list of texts `{name}`, got {values!r}. Correct the file.")
    for template in found["templates"]:
        if not template.endswith("[A]") or template.count("[A]") != 2 or template.count("[B]") != 2:
            raise ValueError(
                f"{file.name}: a template must name [A] twice, the second time at its end, and [B] twice, got "
                f"{template!r}. Correct the file."
            )
    return {name: list(found[name]) for name in _LISTS}


@dataclass(eq=False)
class TaskFile(TaskSet):
    """A task of one's own: rows of a prompt, its right and its wrong answer, and perhaps a corrupted prompt.

    Of an answer of several tokens the first one counts. Rows whose answers begin with the same token, or whose
    corrupted prompt is the prompt itself or not as long in tokens, are left out and counted.

    Args:
        num_samples: How many samples.
        seed: Seed of the draw.
        part: `attribution` and `evaluation` are two disjoint halves of all prompts there are, `all` is both.
        path: Local file with columns `prompt`, `right`, `wrong` and, where there is one, the corrupted prompt; None for
            the hub. Rows with `choices` and `answerKey` (as in MIB's) say by these what is right, and the first of the
            others is wrong.
        corrupted_column: Column of the corrupted prompt; `abc_counterfactual_prompt` for MIB's, whose subject is
            another name.
        separator: What stands between prompt and answer, such as "" in "2+2=" and "4"; None for a space, unless either
            brings white space of its own.
        group_column: Column that decides the half, such as the template's name: prompts of one group are of one half.
            None for the prompt itself, and then alike prompts may be on both sides.
        dataset: Hub id.
        split: Its split.
        revision: Commit on the hub; None for the newest.
    """

    described: ClassVar[tuple[str, ...]] = (*TaskSet.described, "corrupted_column", "separator", "group_column")

    path: str | None = None
    corrupted_column: str = "corrupted"
    separator: str | None = None
    group_column: str | None = None
    dataset: str = "mib-bench/ioi"
    split: str = "train"
    revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        super().__post_init__()
        self.source: Source = Source(self.path, self.dataset, split=self.split, revision=self.revision)

    def questions(self, context: LoadContext) -> Iterator[Question]:
        """Give them in the order of the draw, each prompt once."""
        found: dict[str, Question] = {}
        for question in map(self._question, self.source.rows()):
            found.setdefault(question.prompt, question)
        for prompt in sorted(found, key=lambda prompt: draw_order(self.seed, fingerprint(prompt))):
            if in_part(self.part, found[prompt].group):
                yield found[prompt]

    def _question(self, row: Row) -> Question:
        flat = Row(flat_columns(row.values), row.index, row.place)
        right, wrong = _answers(flat)
        prompt = flat.text("prompt", "path")
        twin = flat.text(self.corrupted_column, "corrupted_column") if self.corrupted_column in flat.values else None
        group = prompt if self.group_column is None else flat.text(self.group_column, "group_column")
        name = row.values.get("id")
        return Question(
            fingerprint(prompt) if name is None else str(name), prompt, right, wrong,
            twin, row.place, fingerprint(prompt), fingerprint(group), self.separator,
        )  # fmt: skip


def _answers(row: Row) -> tuple[str, str]:
    if "choices" not in row.values:
        return row.text("right", "path"), row.text("wrong", "path")
    choices, key = row.values["choices"], row.values.get("answerKey")
    if not isinstance(choices, list) or len(choices) < 2 or not isinstance(key, int) or not 0 <= key < len(choices):
        raise ValueError(
            f"{row.place}: `choices` must be a list of at least two, and `answerKey` the place of the right one, got "
            f"{choices!r} and {key!r}. Correct the row."
        )
    others = [choice for place, choice in enumerate(choices) if place != key]
    return str(choices[key]), str(others[0])


# fmt: off
OWN_LISTS: dict[str, list[str]] = {
    "names": [
        "Adam", "Alex", "Alice", "Amy", "Andrew", "Anna", "Anthony", "Ben", "Brian", "Carl", "Chris", "Daniel",
        "David", "Emily", "Emma", "Eric", "Frank", "George", "Grace", "Henry", "Jack", "James", "Jane", "Jason",
        "Jean", "Jim", "Joe", "John", "Jordan", "Joseph", "Julia", "Kate", "Kevin", "Laura", "Lewis", "Lisa", "Lucy",
        "Luke", "Maria", "Mark", "Martin", "Mary", "Matthew", "Max", "Michael", "Michelle", "Nick", "Oliver",
        "Patrick", "Paul", "Peter", "Rachel", "Richard", "Robert", "Rose", "Ruth", "Ryan", "Sam", "Sarah", "Scott",
        "Simon", "Sophie", "Stephen", "Steve", "Susan", "Thomas", "Tim", "Tom", "Victoria", "William",
    ],
    "places": [
        "beach", "garden", "hospital", "library", "market", "museum", "office", "park", "restaurant", "school",
        "station", "theater",
    ],
    "objects": [
        "basket", "book", "bottle", "coin", "hat", "key", "lamp", "letter", "map", "pencil", "ring", "ticket",
    ],
    "templates": [
        "Yesterday [B] and [A] went to the [PLACE], and [B] gave a [OBJECT] to [A]",
        "When [B] and [A] met at the [PLACE], [B] handed a [OBJECT] to [A]",
        "After [B] and [A] had lunch at the [PLACE], [B] passed a [OBJECT] to [A]",
        "While [B] and [A] were waiting at the [PLACE], [B] showed a [OBJECT] to [A]",
        "Last week [B] and [A] worked at the [PLACE]. In the end [B] sold a [OBJECT] to [A]",
        "Once [B] and [A] were back from the [PLACE], [B] brought a [OBJECT] to [A]",
        "As soon as [B] and [A] reached the [PLACE], [B] threw a [OBJECT] to [A]",
        "Then [B] and [A] spent a long day at the [PLACE]. Before leaving, [B] offered a [OBJECT] to [A]",
        "In the morning [B] and [A] walked to the [PLACE]. There [B] lent a [OBJECT] to [A]",
        "Because [B] and [A] were late for the [PLACE], [B] mailed a [OBJECT] to [A]",
        "Although [B] and [A] did not like the [PLACE], [B] returned a [OBJECT] to [A]",
        "At the [PLACE] [B] and [A] talked for hours, and then [B] gave a [OBJECT] to [A]",
    ],
}
"""Of IOI; sentences of this project's own."""
# fmt: on
