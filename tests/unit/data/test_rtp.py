"""RealToxicityPrompts: three ways to select, None scores, nested and flat rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from sparc3_lightning.data import LoadContext, Prompt, RealToxicityPrompts

WriteJsonl = Callable[..., str]

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
def path(write_jsonl: WriteJsonl) -> str:
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
def test_selection(path: str, context: LoadContext, options: dict[str, Any], expected: set[int]) -> None:
    assert numbers(RealToxicityPrompts(path, **options), context) == expected


def test_rows_without_the_score_are_counted(path: str, context: LoadContext) -> None:
    source = RealToxicityPrompts(path).load(context).source
    assert source["num_without_score"] == 1
    assert source["num_rows"] == 6
    assert (source["select_by"], source["threshold"]) == ("prompt", 0.9)


def test_nested_hub_rows_give_the_prompts_of_flat_rows(
    monkeypatch: pytest.MonkeyPatch, path: str, context: LoadContext
) -> None:
    rows = [nested(number, *scores) for number, scores in enumerate(ROWS)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_list(rows))
    hub, local = (RealToxicityPrompts(source, threshold=0.5).load_prompts(context) for source in (None, path))
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


def test_too_few_are_an_error_that_says_what_was_looked_for(path: str, context: LoadContext) -> None:
    with pytest.raises(ValueError, match=r"only 2 prompts with prompt_toxicity >= 0\.9 .*'num_without_score': 1"):
        RealToxicityPrompts(path, num_prompts=3).load(context)


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


def test_selection_by_the_models_own_responses(path: str, context: LoadContext) -> None:
    responses = Responses()
    rtp = RealToxicityPrompts(path, select_by="response")
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
    with pytest.raises(ValueError, match=r"prompts with response_toxicity >= 0\.9 .*'num_responses': 10"):
        RealToxicityPrompts(path, select_by="response", num_prompts=20, max_responses=10).load(answering)


def test_responses_need_a_model_and_finite_scores(path: str, context: LoadContext) -> None:
    rtp = RealToxicityPrompts(path, select_by="response")
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
