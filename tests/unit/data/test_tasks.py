"""Tasks: samples with a right and a wrong token, and twins as long."""

import copy
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sparc3_lightning.data import IOI, LoadContext, TaskFile
from sparc3_lightning.data.prompts import in_part
from sparc3_lightning.data.samples import ReferenceSet
from sparc3_lightning.data.tasks import held_out_sets, tasks_of
from sparc3_lightning.data.words import joined_text
from tests.runs import ROOT

LISTS = ROOT / "configs/tiny/ioi.json"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ROOT / "configs/tiny/tokenizer")


@pytest.fixture(scope="module")
def context(tokenizer: PreTrainedTokenizerBase) -> LoadContext:
    return LoadContext(tokenizer, 64, vocab_size=len(tokenizer), next_token=True)


def words(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_ioi_asks_for_the_one_named_once_and_its_twin_has_another_subject(
    tokenizer: PreTrainedTokenizerBase, context: LoadContext
) -> None:
    names = set(json.loads(LISTS.read_text())["names"])
    samples = IOI(path=str(LISTS), num_samples=24).load(context)
    assert samples.targets is not None
    for ids, twin, right, wrong in zip(samples.ids, samples.corrupted, samples.targets, samples.against, strict=True):
        clean, corrupted = words(tokenizer, ids.tolist()), words(tokenizer, twin.tolist())
        (right_name, wrong_name) = words(tokenizer, [right, wrong])
        assert (clean.count(right_name), clean.count(wrong_name)) == (1, 2)
        (changed,) = [place for place in range(len(clean)) if clean[place] != corrupted[place]]
        assert clean[changed] == wrong_name
        assert corrupted[changed] in names - {right_name, wrong_name}
        assert changed > max(place for place, word in enumerate(clean) if word == right_name)


def test_both_orders_come_equally_often(tokenizer: PreTrainedTokenizerBase, context: LoadContext) -> None:
    samples = IOI(path=str(LISTS), num_samples=20).load(context)
    is_first = [
        ids.tolist().index(right) < ids.tolist().index(wrong)
        for ids, right, wrong in zip(samples.ids, samples.targets or [], samples.against, strict=True)
    ]
    assert sum(is_first) == 10


def test_each_sentence_is_asked_twice_with_the_names_exchanged(
    tokenizer: PreTrainedTokenizerBase, context: LoadContext
) -> None:
    """So what the names alone, or the first of them, say adds up to exactly 0."""
    samples = IOI(path=str(LISTS), num_samples=24).load(context)
    right, wrong = samples.targets or [], samples.against
    asked = list(zip(right, wrong, strict=True))
    assert Counter(asked) == Counter((other, one) for one, other in asked)
    assert len(set(samples.sample_ids)) == 24
    likely = {name: random.Random(name).gauss(0, 1) for name in {*right, *wrong}}
    named_first = [1 if ids.tolist().index(one) < ids.tolist().index(other) else -1
                   for ids, (one, other) in zip(samples.ids, asked, strict=True)]  # fmt: skip
    assert samples.scenes[::2] == samples.scenes[1::2]
    assert len(set(samples.scenes)) == 12
    for pair in range(0, 24, 2):
        assert asked[pair] == asked[pair + 1][::-1]
        assert sum(likely[one] - likely[other] for one, other in asked[pair : pair + 2]) == 0
        assert sum(named_first[pair : pair + 2]) == 0
        first, second = (ids.tolist() for ids in samples.ids[pair : pair + 2])
        (changed,) = [place for place in range(len(first)) if first[place] != second[place]]
        assert (first[changed], second[changed]) == (wrong[pair], wrong[pair + 1]), "who acts"
        assert samples.corrupted[pair].tolist() == samples.corrupted[pair + 1].tolist()


def test_an_odd_number_leaves_the_last_alone(context: LoadContext) -> None:
    even, odd = (IOI(path=str(LISTS), num_samples=num).load(context) for num in (24, 23))
    assert odd.sample_ids == even.sample_ids[:23]


def test_a_question_that_cannot_be_asked_takes_its_other_half_with_it(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """A tokenizer that joins one name with the word after it, where it acts."""
    joined = copy.deepcopy(tokenizer)
    joined.backend_tokenizer.normalizer = normalizers.Sequence([
        normalizers.Replace("then the baker sold", "then the baker , sold"),
        tokenizer.backend_tokenizer.normalizer or normalizers.Sequence([]),
    ])  # fmt: skip
    lists = json.loads(LISTS.read_text())
    small = {"names": lists["names"][:4], "places": ["garden"], "objects": ["map"], "templates": lists["templates"][:1]}
    (tmp_path / "lists.json").write_text(json.dumps(small))
    context = LoadContext(joined, 64, vocab_size=len(tokenizer), next_token=True)
    samples = IOI(path=str(tmp_path / "lists.json"), num_samples=6).load(context)
    assert samples.source["num_of_unequal_twins"] % 2 == 0
    baker = tokenizer.convert_tokens_to_ids("baker")
    asked = list(zip(samples.targets or [], samples.against, strict=True))
    assert asked[::2] == [pair[::-1] for pair in asked[1::2]]
    assert baker not in {*(samples.targets or []), *samples.against}, "beside it the other half could be asked"


def test_parts_share_no_template_and_seeds_draw_anew(context: LoadContext, tokenizer: PreTrainedTokenizerBase) -> None:
    drawn = {
        (part, seed): IOI(path=str(LISTS), num_samples=12, part=part, seed=seed).load(context)  # type: ignore[arg-type]
        for part in ("attribution", "evaluation")
        for seed in (0, 1)
    }
    verbs = {"attribution": {"found", "slept"}, "evaluation": {"washed", "mended"}}
    for (part, _), samples in drawn.items():
        assert all(verbs[part] & set(words(tokenizer, ids.tolist())) for ids in samples.ids)
    assert drawn["attribution", 0].token_hash != drawn["attribution", 1].token_hash
    assert not {*drawn["attribution", 0].groups} & {*drawn["evaluation", 0].groups}
    assert {*drawn["attribution", 0].groups} & {*drawn["attribution", 1].groups}
    again = IOI(path=str(LISTS), num_samples=12, part="attribution").load(context)
    assert again.token_hash == drawn["attribution", 0].token_hash


def test_names_of_several_tokens_are_left_out(context: LoadContext, tmp_path: Path) -> None:
    lists = json.loads(LISTS.read_text())
    lists["names"] = [*lists["names"][:3], "wooden baker"]
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    samples = IOI(path=str(tmp_path / "lists.json"), num_samples=12).load(context)
    used = {*(samples.targets or []), *samples.against}
    assert len(used) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": []}, "`names`"),
        ({"templates": ["the [A] and the [B] met"]}, "template must name"),
        ({"names": ["baker", "nurse"]}, "three names"),
    ],
)
def test_lists_that_cannot_be_asked_are_refused(
    context: LoadContext, tmp_path: Path, change: dict[str, list[str]], message: str
) -> None:
    (tmp_path / "lists.json").write_text(json.dumps(json.loads(LISTS.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        IOI(path=str(tmp_path / "lists.json"), num_samples=2).load(context)


def test_more_samples_than_the_lists_give_are_refused(context: LoadContext, tmp_path: Path) -> None:
    lists = json.loads(LISTS.read_text())
    small = {"names": lists["names"][:3], "places": ["garden"], "objects": ["map"], "templates": lists["templates"][:1]}
    (tmp_path / "lists.json").write_text(json.dumps(small))
    # 3 x 2 pairs, one third name each, two orders of the names.
    assert len(IOI(path=str(tmp_path / "lists.json"), num_samples=12).load(context)) == 12
    with pytest.raises(ValueError, match="only 12"):
        IOI(path=str(tmp_path / "lists.json"), num_samples=13).load(context)


def task_file(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def test_a_file_names_prompt_answers_and_twin(
    tokenizer: PreTrainedTokenizerBase, context: LoadContext, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"id": "one", "prompt": "the old", "right": "map", "wrong": "boat", "corrupted": "the young"},
        {"id": "two", "prompt": "the silly", "choices": ["map", "boat"], "answerKey": 1, "corrupted": "the lazy"},
        {"id": "same", "prompt": "the whole", "right": "map", "wrong": "map", "corrupted": "the young"},
        {"id": "long", "prompt": "the quiet", "right": "map", "wrong": "boat", "corrupted": "the very young"},
    ]
    samples = TaskFile(path=task_file(tmp_path / "task.jsonl", rows), num_samples=2).load(context)
    found = dict(zip(samples.sample_ids, zip(samples.targets or [], samples.against, strict=True), strict=True))
    boat, a_map = tokenizer.convert_tokens_to_ids(["boat", "map"])
    assert found == {"one": (a_map, boat), "two": (boat, a_map)}
    assert [words(tokenizer, twin.tolist())[-1] for twin in samples.corrupted] == [
        {"one": "young", "two": "lazy"}[name] for name in samples.sample_ids
    ]
    with pytest.raises(ValueError, match=r"num_(alike|of_unequal_twins).*num_(alike|of_unequal_twins)"):
        TaskFile(path=task_file(tmp_path / "task.jsonl", rows), num_samples=3).load(context)
    with pytest.raises(ValueError, match=r"of part 'attribution' there are only \d that .* ask\. .* set `part: all`"):
        TaskFile(path=task_file(tmp_path / "task.jsonl", rows[:2]), num_samples=3, part="attribution").load(context)


def test_a_file_needs_no_twins(context: LoadContext, tmp_path: Path) -> None:
    openings = ("old", "young", "silly", "lazy", "heavy", "clean", "blue", "long")
    rows: list[dict[str, object]] = [{"prompt": f"the {word}", "right": "map", "wrong": "boat"} for word in openings]
    path = task_file(tmp_path / "task.jsonl", rows)
    assert TaskFile(path=path, num_samples=8).load(context).corrupted == []
    halves = [TaskFile(path=path, num_samples=1, part=part).load(context).fingerprints[0]
              for part in ("attribution", "evaluation")]  # type: ignore[arg-type] # fmt: skip
    assert halves[0] != halves[1]


def test_rows_of_a_group_are_of_one_half(context: LoadContext, tmp_path: Path) -> None:
    openings = ("old", "young", "silly", "lazy", "heavy", "clean", "blue", "long")
    rows: list[dict[str, object]] = [
        {"prompt": f"the {word} {noun}", "right": "map", "wrong": "boat", "of": word}
        for word in openings
        for noun in ("garden", "kitchen", "road")
    ]
    path = task_file(tmp_path / "task.jsonl", rows)
    both = TaskFile(path=path, num_samples=24, group_column="of").load(context)
    assert sorted(Counter(both.groups).values()) == [3] * 8
    num = {part: sum(in_part(part, group) for group in both.groups) for part in ("attribution", "evaluation")}  # type: ignore[arg-type]
    halves = [TaskFile(path=path, num_samples=num[part], part=part, group_column="of").load(context)
              for part in num]  # type: ignore[arg-type] # fmt: skip
    assert not {*halves[0].groups} & {*halves[1].groups}
    assert {*halves[0].sample_ids} | {*halves[1].sample_ids} == {*both.sample_ids}
    by_prompt = TaskFile(path=path, num_samples=24).load(context)
    assert by_prompt.groups == by_prompt.fingerprints, "without it a prompt is a group"
    assert by_prompt.sample_ids == both.sample_ids
    with pytest.raises(ValueError, match=r"no column `template`.*Set `init_args.group_column`"):
        TaskFile(path=path, num_samples=4, group_column="template").load(context)


def test_answers_by_key_are_checked(context: LoadContext, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": "the old", "choices": ["map", "boat"], "answerKey": 2}]
    with pytest.raises(ValueError, match=r"line 1.*answerKey"):
        TaskFile(path=task_file(tmp_path / "task.jsonl", rows), num_samples=1).load(context)


def test_some_twins_and_some_none_are_refused(context: LoadContext, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "the old", "right": "map", "wrong": "boat", "corrupted": "the young"},
        {"prompt": "the lazy", "right": "map", "wrong": "boat"},
    ]
    with pytest.raises(ValueError, match="every row must have a corrupted twin, or none, got 1 of 2"):
        TaskFile(path=task_file(tmp_path / "task.jsonl", rows), num_samples=2).load(context)


def test_names_and_lists_of_other_tokenizers_and_codes(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """A tokenizer that by itself puts a token before a word, as SentencePiece's; lists as ACDC's code calls them."""
    lists = json.loads(LISTS.read_text())
    (tmp_path / "lists.json").write_text(json.dumps(
        {"NAMES": lists["names"], "PLACES": lists["places"], "OBJECTS": lists["objects"],
         "BABA_TEMPLATES": lists["templates"]}
    ))  # fmt: skip
    prefixed = copy.deepcopy(tokenizer)
    prefixed.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("soon "), prefixed.backend_tokenizer.normalizer or normalizers.Sequence([])]
    )
    context = LoadContext(prefixed, 64, vocab_size=len(tokenizer), next_token=True)
    samples = IOI(path=str(tmp_path / "lists.json"), num_samples=12).load(context)
    assert len({*(samples.targets or []), *samples.against}) > 3


@pytest.mark.parametrize(
    ("row", "separator", "text"),
    [
        ({"prompt": "the old", "right": "map", "wrong": "boat"}, None, "the old map"),
        ({"prompt": "the old\n", "right": "map", "wrong": "boat"}, None, "the old\nmap"),
        ({"prompt": "the old", "right": " map", "wrong": " boat"}, None, "the old map"),
        ({"prompt": "the old,", "right": "map", "wrong": "boat"}, "", "the old,map"),
    ],
)
def test_prompt_and_answer_are_joined_as_the_file_says(
    row: dict[str, object], separator: str | None, text: str, context: LoadContext, tmp_path: Path
) -> None:
    task = TaskFile(path=task_file(tmp_path / "task.jsonl", [row]), num_samples=1, separator=separator)
    (question,) = task.questions(context)
    assert joined_text(question.prompt, question.right, question.separator)[0] == text


SETS: dict[str, ReferenceSet] = {
    "ioi_seed0": IOI(num_samples=4), "own": TaskFile(path="own.jsonl"), "ioi_seed1": IOI(num_samples=4, seed=1),
}  # fmt: skip


def test_sets_that_differ_in_seed_alone_are_draws_of_one_task() -> None:
    assert tasks_of(SETS) == {"ioi": ["ioi_seed0", "ioi_seed1"], "own": ["own"]}
    larger: dict[str, ReferenceSet] = {"ioi_seed0": IOI(num_samples=4), "ioi_seed1": IOI(num_samples=8)}
    assert tasks_of(larger) == {"ioi_seed0": ["ioi_seed0"], "ioi_seed1": ["ioi_seed1"]}, "two tasks, of two names"
    assert tasks_of({}) == {}


def test_sets_that_ask_in_another_way_are_another_task() -> None:
    plain, other = TaskFile(path="own.jsonl"), TaskFile(path="own.jsonl", seed=1)
    assert tasks_of({"a": plain, "b": other}) == {"a": ["a", "b"]}
    assert tasks_of({"a": plain, "b": TaskFile(path="own.jsonl", separator="")}) == {"a": ["a"], "b": ["b"]}
    twins = TaskFile(path="own.jsonl", seed=1, corrupted_column="twin")
    assert tasks_of({"a": plain, "b": other, "c": twins}) == {"a": ["a", "b"], "c": ["c"]}
    assert plain.describe() == twins.describe() | {"seed": 0, "corrupted_column": "corrupted"}
    groups = TaskFile(path="own.jsonl", seed=1, group_column="template")
    assert tasks_of({"a": plain, "b": groups}) == {"a": ["a"], "b": ["b"]}


def test_each_task_has_its_held_out_set() -> None:
    one, other = IOI(part="evaluation"), TaskFile(path="other.jsonl")
    draws = {name: SETS[name] for name in ("ioi_seed0", "ioi_seed1")}
    assert held_out_sets(None, SETS) == {}
    assert held_out_sets(one, draws) == {"ioi": ("data.evaluation_task", one)}
    assert held_out_sets({"own": other, "ioi": one}, SETS) == {
        "own": ("data.evaluation_task.own", other), "ioi": ("data.evaluation_task.ioi", one),
    }  # fmt: skip
    assert held_out_sets({"ioi_seed1": one}, draws) == {"ioi": ("data.evaluation_task.ioi_seed1", one)}


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (IOI(), "a single set"),
        ({"ioi": IOI()}, r"\['ioi'\]"),
        ({"ioi": IOI(), "owm": IOI()}, r"\['ioi', 'owm'\]"),
        ({"ioi": IOI(), "own": IOI(), "ioi_seed0": IOI()}, r"\['ioi', 'own', 'ioi_seed0'\]"),
    ],
)
def test_a_task_without_held_out_set_is_named(given: ReferenceSet | dict[str, ReferenceSet], got: str) -> None:
    with pytest.raises(ValueError, match=rf"each task of \['ioi', 'own'\], .* got {got}\. .*evaluation_task\.own`"):
        held_out_sets(given, SETS)
