"""Drawing prompts: seeded, blind to the file's order, in disjoint halves, fitted into the context."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sparc3_lightning.data import LoadContext, PromptFile
from sparc3_lightning.data.prompts import Part

WriteJsonl = Callable[..., str]
PROMPTS = [f"prompt number {number}" for number in range(60)]


@pytest.fixture
def path(write_jsonl: WriteJsonl) -> str:
    return write_jsonl({"prompt": text, "id": f"p{number}"} for number, text in enumerate(PROMPTS))


def drawn(prompts: PromptFile, context: LoadContext) -> list[str]:
    return [prompt.text for prompt in prompts.load_prompts(context)]


def test_all_prompts_are_drawn_by_default(path: str, context: LoadContext) -> None:
    assert sorted(drawn(PromptFile(path), context)) == sorted(PROMPTS)


def test_a_subset_is_random_and_seeded(path: str, context: LoadContext) -> None:
    first, again, other = (drawn(PromptFile(path, num_prompts=10, seed=seed), context) for seed in (0, 0, 1))
    assert first == again != other
    assert set(first) != set(PROMPTS[:10]), "trap 21: never the first rows"
    assert len(set(first)) == 10


def test_the_draw_does_not_depend_on_the_order_of_the_file(
    path: str, write_jsonl: WriteJsonl, context: LoadContext
) -> None:
    shuffled = random.Random(0).sample(PROMPTS, len(PROMPTS))
    other = write_jsonl(({"prompt": text} for text in shuffled), "other.jsonl")
    assert drawn(PromptFile(path, num_prompts=10), context) == drawn(PromptFile(other, num_prompts=10), context)


def test_parts_are_disjoint_halves_of_all(path: str, context: LoadContext) -> None:
    parts: list[Part] = ["attribution", "evaluation"]
    attribution, evaluation = (set(drawn(PromptFile(path, part=part), context)) for part in parts)
    assert not attribution & evaluation
    assert attribution | evaluation == set(PROMPTS)
    assert min(len(attribution), len(evaluation)) > 15


@pytest.mark.parametrize("id_column", ["id", "number"])
def test_an_id_that_comes_twice_is_refused(write_jsonl: WriteJsonl, context: LoadContext, id_column: str) -> None:
    rows = [{"prompt": text, id_column: number // 2 + 3} for number, text in enumerate(["a", "b", "c"])]
    said = rf"rows\.jsonl, line 2: the id '3' in column `{id_column}` is also that of rows\.jsonl, line 1.*id_column"
    with pytest.raises(ValueError, match=said):
        PromptFile(write_jsonl(rows), id_column=id_column, num_prompts=1).load_prompts(context)
    assert sorted(drawn(PromptFile(write_jsonl(rows), id_column="none"), context)) == ["a", "b", "c"]


def test_a_row_that_comes_twice_is_one_prompt(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    rows = [("a", "3"), ("b", ""), ("c", None), ("d", None), ("a", "3")]
    prompts = PromptFile(write_jsonl({"prompt": text, "id": name} for text, name in rows))
    assert sorted(drawn(prompts, context)) == ["a", "b", "c", "d"]
    assert prompts.describe()["drawn_from"]["num_duplicates"] == 1


@pytest.mark.parametrize("by", ["id", "fingerprint"])
def test_excluded_prompts_are_not_drawn(path: str, context: LoadContext, by: str) -> None:
    prompts = PromptFile(path).load_prompts(context)
    exclude = {getattr(prompt, by): "toxic" for prompt in prompts[:40]}
    left = PromptFile(path).load_prompts(context, exclude)
    assert left == prompts[40:]


def test_a_prompt_that_stands_twice_is_drawn_once(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl([{"prompt": "same"}, {"prompt": "same "}, {"prompt": "other"}])
    samples = PromptFile(path).load(context)
    assert len(samples) == 2
    assert samples.source["num_duplicates"] == 1


def test_ids_are_the_files_or_fingerprints(path: str, write_jsonl: WriteJsonl, context: LoadContext) -> None:
    assert {prompt.id for prompt in PromptFile(path).load_prompts(context)} == {f"p{n}" for n in range(60)}
    unnamed = write_jsonl([{"prompt": "x"}], "unnamed.jsonl")
    (prompt,) = PromptFile(unnamed).load_prompts(context)
    assert prompt.id == prompt.fingerprint


def test_a_txt_file_is_one_prompt_a_line(tmp_path: Path, context: LoadContext) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert sorted(drawn(PromptFile(str(tmp_path / "a.txt")), context)) == ["one", "two"]


def test_a_blank_prompt_is_named_by_its_line(tmp_path: Path, context: LoadContext) -> None:
    (tmp_path / "a.txt").write_text("one\n  \n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2: `prompt` is empty or only whitespace"):
        PromptFile(str(tmp_path / "a.txt")).load(context)


def test_too_few_prompts_are_an_error_with_the_count(path: str, context: LoadContext) -> None:
    with pytest.raises(ValueError, match=r"`num_prompts` is 61, but .*rows\.jsonl has only 60 prompts in part `all`"):
        PromptFile(path, num_prompts=61).load_prompts(context)
    everything = {f"p{number}": "toxic" for number in range(60)}
    with pytest.raises(ValueError, match=r"has only 0 prompts.*60 are attributed, by \['toxic'\] of `data"):
        PromptFile(path).load_prompts(context, everything)


def test_samples_carry_ids_and_tokens_of_the_same_prompts(path: str, context: LoadContext) -> None:
    prompts = PromptFile(path, num_prompts=5)
    samples = prompts.load(context)
    assert samples.sample_ids == [prompt.id for prompt in prompts.load_prompts(context)]
    texts = [context.tokenizer.decode(ids, skip_special_tokens=True) for ids in samples.ids]
    assert texts == drawn(prompts, context)
    assert samples.source["bos"] is True
    assert samples.source["path"] == path


def test_evaluation_prompts_leave_room_for_the_continuation(path: str, context: LoadContext) -> None:
    tight = replace(context, max_length=16, reserve_tokens=6)
    with pytest.warns(UserWarning, match="60 of 60 texts were left-truncated to 10 tokens"):
        prompts = PromptFile(path).load_prompts(tight)
    assert {len(context.tokenizer(prompt.text)["input_ids"]) for prompt in prompts} == {10}
    with pytest.raises(ValueError, match=r"rows\.jsonl, line \d+: the text has \d+ tokens, at most 10 fit"):
        PromptFile(path, on_too_long="refuse").load_prompts(tight)
    with pytest.raises(ValueError, match="`reserve_tokens` must be below the context of 16 tokens, got 16"):
        PromptFile(path).load_prompts(replace(tight, reserve_tokens=16))


def test_samples_may_fill_the_context(path: str, context: LoadContext) -> None:
    tight = replace(context, max_length=12, reserve_tokens=6)
    with pytest.warns(UserWarning, match="60 of 60 texts were left-truncated to 12 tokens"):
        samples = PromptFile(path).load(tight)
    assert {len(ids) for ids in samples.ids} == {12}
    assert samples.source["num_truncated"] == 60
