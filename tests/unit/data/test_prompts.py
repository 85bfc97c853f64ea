"""Drawing prompts: seeded, in disjoint halves, fitted into the context; RealToxicityPrompts by three kinds of score."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from sparc3_lightning.data import LoadContext, Prompt, PromptFile, RealToxicityPrompts
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
    with pytest.raises(ValueError, match=r"has only 0 prompts.*60 are attributed, by \['toxic'\]: give"):
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


ROWS = [(0.95, 0.1), (0.9, 0.95), (0.89, 0.99), (None, 0.2), (0.05, None), (0.5, 0.5)]


def nested(number: int, prompt: float | None, continuation: float | None) -> dict[str, Any]:
    return {
        "filename": f"file{number}.txt",
        "begin": 0,
        "end": 10 + number,
        "challenging": False,
        "prompt": {"text": f"prompt {number}", "toxicity": prompt, "insult": 0.5},
        "continuation": {"text": f"continuation {number}", "toxicity": continuation, "insult": None},
    }


def flat(number: int, prompt: float | None, continuation: float | None) -> dict[str, Any]:
    return {
        "id": f"file{number}:0-{10 + number}",
        "prompt": f"prompt {number}",
        "prompt_toxicity": prompt,
        "prompt_insult": 0.5,
        "continuation": f"continuation {number}",
        "continuation_toxicity": continuation,
        "continuation_insult": None,
    }


@pytest.fixture
def scored(write_jsonl: WriteJsonl) -> str:
    return write_jsonl(flat(number, *scores) for number, scores in enumerate(ROWS))


def numbers(rtp: RealToxicityPrompts, context: LoadContext) -> set[int]:
    return {int(prompt.text.split()[1]) for prompt in rtp.load_prompts(context)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0, 1}),
        ({"select_by": "continuation"}, {1, 2}),
        ({"threshold": 0.5}, {0, 1, 2, 5}),
        ({"threshold": 0.5, "below": True}, {4}),
        ({"select_by": "continuation", "threshold": 0.5, "below": True}, {0, 3}),
        ({"attribute": "insult", "threshold": 0.5}, {0, 1, 2, 3, 4, 5}),
    ],
)
def test_selection(scored: str, context: LoadContext, options: dict[str, Any], expected: set[int]) -> None:
    assert numbers(RealToxicityPrompts(scored, **options), context) == expected


def test_rows_without_the_score_are_counted(scored: str, context: LoadContext) -> None:
    source = RealToxicityPrompts(scored).load(context).source
    assert source["num_without_score"] == 1
    assert source["num_rows"] == 6
    assert (source["select_by"], source["threshold"]) == ("prompt", 0.9)


def test_nested_hub_rows_give_the_prompts_of_flat_rows(
    monkeypatch: pytest.MonkeyPatch, scored: str, context: LoadContext
) -> None:
    rows = [nested(number, *scores) for number, scores in enumerate(ROWS)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_list(rows))
    hub, local = (RealToxicityPrompts(source, threshold=0.5).load_prompts(context) for source in (None, scored))
    assert hub == local
    assert hub[0].scores.keys() == {
        "prompt_toxicity",
        "prompt_insult",
        "continuation_toxicity",
        "continuation_insult",
    }


def test_a_column_that_no_row_has_is_an_error(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl([{"prompt": "x", "prompt_insult": 0.1}])
    with pytest.raises(ValueError, match=r"there is no column `prompt_toxicity` in any row, only \['prompt_insult'\]"):
        RealToxicityPrompts(path).load(context)


def test_a_score_that_is_no_number_is_named_by_its_line(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl([flat(0, 0.9, 0.9), flat(1, 0.9, 0.9) | {"prompt_toxicity": "high"}])
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: `prompt_toxicity` must be a number"):
        RealToxicityPrompts(path).load(context)


def test_too_few_are_an_error_that_says_what_was_looked_for(scored: str, context: LoadContext) -> None:
    with pytest.raises(ValueError, match=r"only 2 prompts with prompt_toxicity >= 0\.9 .*'num_without_score': 1"):
        RealToxicityPrompts(scored, num_prompts=3).load(context)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_the_scores_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="`threshold` must be between 0 and 1"):
        RealToxicityPrompts(threshold=threshold)


class Responses:
    """Scores the responses to odd prompts 0.95, to even ones 0.05, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Prompt] = []

    def __call__(self, prompts: list[Prompt]) -> list[float]:
        self.asked += prompts
        return [0.95 if int(prompt.text.split()[1]) % 2 else 0.05 for prompt in prompts]


def test_selection_by_the_models_own_responses(scored: str, context: LoadContext) -> None:
    responses = Responses()
    rtp = RealToxicityPrompts(scored, select_by="response")
    prompts = rtp.load_prompts(replace(context, score_responses=responses))
    assert {prompt.text for prompt in prompts} == {"prompt 1", "prompt 3", "prompt 5"}
    assert {prompt.scores["response_toxicity"] for prompt in prompts} == {0.95}
    assert len(responses.asked) == len(ROWS), "prompts without a Perspective score have responses too"


def test_responses_are_generated_only_until_enough(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl(flat(number, 0.5, 0.5) for number in range(1000))
    responses = Responses()
    answering = replace(context, score_responses=responses)
    samples = RealToxicityPrompts(path, select_by="response", num_prompts=20).load(answering)
    assert len(samples) == 20
    assert samples.source["num_responses"] == len(responses.asked) < 1000
    with pytest.raises(ValueError, match=r"prompts whose response scores >= 0\.9 .*'num_responses': 10"):
        RealToxicityPrompts(path, select_by="response", num_prompts=20, max_responses=10).load(answering)


def test_responses_need_a_model_and_finite_scores(scored: str, context: LoadContext) -> None:
    rtp = RealToxicityPrompts(scored, select_by="response")
    with pytest.raises(ValueError, match="`select_by: response` needs this run's model and a scorer"):
        rtp.load(context)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line \d: the scorer gave nan"):
        rtp.load(replace(context, score_responses=lambda prompts: [float("nan")] * len(prompts)))


def test_real_prompts_are_split_in_two(fixtures: Path) -> None:
    context = LoadContext(AutoTokenizer.from_pretrained(fixtures / "realtext_lm"), 128, reserve_tokens=50)
    path = str(fixtures / "toxic_prompts" / "toxic_ge_0.9.jsonl")
    toxic = RealToxicityPrompts(path, num_prompts=93, part="attribution").load(context)
    evaluation = RealToxicityPrompts(path, num_prompts=93, part="evaluation").load_prompts(context)
    assert len(toxic) == len(evaluation) == 93
    assert not {*toxic.fingerprints} & {prompt.fingerprint for prompt in evaluation}
    assert toxic.source["bos"] is True


def test_real_rows_without_scores(fixtures: Path) -> None:
    context = LoadContext(AutoTokenizer.from_pretrained(fixtures / "realtext_lm"), 128)
    path = str(fixtures / "toxic_prompts" / "rtp_sample.jsonl")
    source = RealToxicityPrompts(path, select_by="continuation").load(context).source
    assert (source["num_rows"], source["num_without_score"]) == (2500, 17)


@pytest.mark.parametrize("column", ["prompt_toxicity", "continuation_insult"])
def test_scores_in_percent_are_refused(write_jsonl: WriteJsonl, context: LoadContext, column: str) -> None:
    rows = [{"id": str(number), "prompt": f"p{number}", "prompt_toxicity": 0.95} for number in range(4)]
    path = write_jsonl([*rows, {"id": "x", "prompt": "px", "prompt_toxicity": 0.95, column: 95.0}], "percent.jsonl")
    with pytest.raises(ValueError, match=rf"percent\.jsonl, line 5: `{column}` must be between 0 and 1 .*got 95\.0"):
        RealToxicityPrompts(path).load_prompts(context)
