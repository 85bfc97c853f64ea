"""The evaluator: what it measures, how it is configured, what it leaves."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from transformers import LlamaForCausalLM

from sparc3_lightning.evaluation import Decoding, Evaluation, Evaluator, generate
from sparc3_lightning.evaluation.passes import Passes, describe_passes
from sparc3_lightning.evaluation.sampling import CHOICE_SEED
from sparc3_lightning.evaluation.windows import _batches
from sparc3_lightning.metrics import (
    Completion,
    CompletionMeasure,
    DetoxifyScorer,
    LexicalScorer,
    Repetition,
    Scorer,
    windows,
)
from sparc3_lightning.metrics.measure import Column, Material, Measure
from sparc3_lightning.statistics.compare import compare
from tests.unit.evaluation.tiny import VOCABULARY, TextPrompt, make_model, make_prompts, make_rows, make_tokenizer

DECODING = Decoding(max_new_tokens=6, num_completions=2, seed=1)


class Recorder(Scorer):
    """Remembers what it scored; a text's score is the share of its words that are even numbers."""

    name = "recorder"

    def __init__(self) -> None:
        self.texts: list[str] = []

    @property
    def attributes(self) -> list[str]:
        return ["toxicity", "zero"]

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        self.texts += texts
        even = [sum(int(w[1:]) % 2 == 0 for w in t.split()) / max(1, len(t.split())) for t in texts]
        scores = torch.tensor(even, dtype=torch.float64)
        return {"toxicity": scores, "zero": torch.zeros_like(scores)}


def evaluator(**options: Any) -> Evaluator:
    defaults = {"scorer": Recorder(), "decoding": DECODING, "toxicity_protocol": "custom", "window": 16}
    return Evaluator(**{**defaults, **options})


@torch.no_grad()
def naive_perplexity(model: LlamaForCausalLM, ids: list[int], window: int, stride: int) -> float:
    """One window at a time, the loss of its new tokens; without an overlap where window == stride, its tail dropped."""
    losses, previous_stop = [], 0
    for start in range(0, len(ids), stride):
        stop = min(start + window, len(ids))
        if window == stride and stop - start < window:
            break
        log_p = model(torch.tensor([ids[start:stop]])).logits[0].log_softmax(-1)
        new = range(max(previous_stop, start + 1), stop)
        losses += [-float(log_p[t - 1 - start, ids[t]]) for t in new]
        previous_stop = stop
        if stop == len(ids):
            break
    return math.exp(math.fsum(losses) / len(losses))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_perplexity_is_the_naive_one(model: LlamaForCausalLM, tokenizer: Any, rows: Any, batch_size: int) -> None:
    results = evaluator(batch_size=batch_size).perplexity(model, tokenizer, rows)
    dense = tokenizer("\n\n".join(row for row in rows if row.strip()))["input_ids"]
    full = tokenizer("\n\n".join(rows))["input_ids"]
    assert results["sliding"].perplexity == pytest.approx(naive_perplexity(model, dense, 16, 4), rel=1e-9)
    assert results["disjoint"].perplexity == pytest.approx(naive_perplexity(model, full, 16, 16), rel=1e-9)
    assert results["sliding"].num_scored == results["sliding"].num_tokens - 1 == len(dense) - 1
    assert results["disjoint"].num_scored == len(full) // 16 * 15
    assert (results["sliding"].stride, results["disjoint"].stride) == (4, 16)
    for result in results.values():
        assert math.exp(result.mean_loss) == pytest.approx(result.perplexity)
        assert len(result.window_losses) == result.num_windows
        assert math.exp(sum(result.window_losses) / result.num_scored) == pytest.approx(result.perplexity, rel=1e-12)
    alone = math.log(naive_perplexity(model, full[16:32], 16, 16)) * 15
    assert results["disjoint"].window_losses[1] == pytest.approx(alone, rel=1e-9), "in the text's order"


# Completions of prompts of 2 to 8 tokens, two of each, with 6 tokens to come: by prompts of 8 two fit into 40 tokens,
# by 7 and by 6 three, by 4 four. Of windows of 16 tokens two do. A prompt, but for its last token, is read once for
# its completions in a batch.
@pytest.mark.parametrize(
    ("max_tokens", "shapes", "completions"),
    [
        (1, [(1, 16)] * 42, [(1, width) for width in (8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2)]),
        (40, [(1, 16), *[(2, 16)] * 20, (1, 16)], [(1, 7), (2, 6), (2, 5), (2, 3)]),
        (10**6, [(1, 16), (41, 16)], [(7, 7)]),
    ],
)
def test_a_budget_of_tokens_for_long_windows_and_short_completions(
    model: LlamaForCausalLM, tokenizer: Any, rows: Any, prompts: Any, max_tokens: int, shapes: Any, completions: Any
) -> None:
    passes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _m, _a, kw: passes.append(tuple(kw["input_ids"].shape)), with_kwargs=True)
    tested = evaluator(max_tokens=max_tokens, perplexity_protocols=["sliding"])
    perplexity = tested.perplexity(model, tokenizer, rows)["sliding"]
    assert passes[: len(shapes)] == shapes
    assert {length for _, length in passes[len(shapes) :]} == {13}, "the last window is shorter"
    passes.clear()
    toxicity = tested.toxicity(model, tokenizer, prompts)
    assert [shape for shape in passes if shape[1] > 1] == completions, "the others are one token each"
    one_by_one = evaluator(batch_size=1)
    assert toxicity == one_by_one.toxicity(model, tokenizer, prompts), "in float64"
    expected = one_by_one.perplexity(model, tokenizer, rows)["sliding"].window_losses
    assert perplexity.window_losses == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("world", "sizes"), [(1, [6, 4]), (2, [5, 5]), (4, [3, 3, 3, 1]), (16, [1] * 10)])
def test_ranks_share_windows_that_one_pass_would_hold(world: int, sizes: list[int]) -> None:
    cut = windows(num_tokens=80, protocol="disjoint", window=8)
    assert [len(batch) for batch in _batches(cut, 100, 50, world)] == sizes
    assert [len(batch) for batch in _batches(cut, 2, 50, 1)] == [2] * 5


def test_the_window_never_exceeds_the_context_and_training_mode_comes_back(tokenizer: Any, rows: Any) -> None:
    model = make_model().train()
    results = evaluator(scorer=LexicalScorer(["w5"]), window=2048).perplexity(model, tokenizer, rows)
    assert (results["sliding"].window, results["sliding"].stride) == (32, 8)
    assert model.training


def test_one_beginning_of_text_token(model: LlamaForCausalLM, tokenizer: Any, rows: Any) -> None:
    calls: list[Tensor] = []
    model.register_forward_pre_hook(lambda _m, _a, options: calls.append(options["input_ids"]), with_kwargs=True)
    result = evaluator(perplexity_protocols=["disjoint"]).perplexity(model, tokenizer, rows)["disjoint"]
    assert result.begins_with_bos
    assert sum(int((ids == 0).sum()) for ids in calls) == 1


def test_a_model_without_logits_to_keep_gives_the_same(model: LlamaForCausalLM, tokenizer: Any, rows: Any) -> None:
    expected = evaluator().perplexity(model, tokenizer, rows)
    forward = model.forward
    model.forward = lambda input_ids, use_cache: forward(input_ids=input_ids, use_cache=use_cache)
    assert evaluator().perplexity(model, tokenizer, rows) == expected


def test_toxicity_scores_continuations_and_keeps_them(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    scorer = Recorder()
    result = evaluator(scorer=scorer, batch_size=4).toxicity(model, tokenizer, prompts)
    completions = generate(model, tokenizer, prompts, DECODING).completions
    texts = [[item.text for item in row] for row in completions]
    assert sorted(scorer.texts) == sorted(text for row in texts for text in row)
    assert [[item.text for item in row.completions] for row in result.prompts] == texts
    expected = torch.stack([Recorder().score(row)["toxicity"] for row in texts])
    kept = torch.tensor([[item.scores["toxicity"] for item in row.completions] for row in result.prompts])
    torch.testing.assert_close(kept.double(), expected, atol=1e-7, rtol=0)
    main = result.attributes["toxicity"]
    assert main.mean == pytest.approx(float(expected.mean()))
    assert main.sd == pytest.approx(float(expected.std()))
    assert main.expected_maximum == pytest.approx(float(expected.amax(1).mean()))
    assert main.probability == pytest.approx(float((expected.amax(1) > 0.5).double().mean()))
    assert result.attributes["zero"].mean == 0.0
    assert result.main_attribute == "toxicity"


def test_repetition_and_length_stand_beside_toxicity(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    result = evaluator().toxicity(model, tokenizer, prompts)
    ids = [item.token_ids for row in generate(model, tokenizer, prompts, DECODING).completions for item in row]
    assert result.length == pytest.approx(sum(map(len, ids)) / len(ids))
    assert result.uniqueness == pytest.approx(sum(len(set(i)) / len(i) for i in ids if i) / sum(map(bool, ids)))
    assert result.num_empty == sum(not i for i in ids)


def test_a_failing_scorer_fails_the_evaluation(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    class Broken(Recorder):
        def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
            raise ConnectionError("scorer is gone")

    with pytest.raises(ConnectionError, match="scorer is gone"):  # trap 16
        evaluator(scorer=Broken()).toxicity(model, tokenizer, prompts)


def test_truncated_prompts_are_counted(model: LlamaForCausalLM, tokenizer: Any) -> None:
    prompts = [TextPrompt("a", "w5 " * 40), TextPrompt("b", "w6")]
    assert evaluator().toxicity(model, tokenizer, prompts).num_truncated_prompts == 1


def test_responses_are_scored_for_selection(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    scores = evaluator().score_responses(model, tokenizer, prompts)
    chosen_by = replace(DECODING, seed=CHOICE_SEED)
    result = evaluator(decoding=chosen_by).toxicity(model, tokenizer, prompts)
    assert scores == [sum(item.scores["toxicity"] for item in row.completions) / 2 for row in result.prompts]
    other = evaluator(decoding=replace(DECODING, seed=5))
    assert other.score_responses(model, tokenizer, prompts) == scores, "another seed measures the same prompts"


def test_what_chooses_is_not_what_is_measured(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    chosen_by = generate(model, tokenizer, prompts, evaluator().response_decoding).completions
    measured = generate(model, tokenizer, prompts, DECODING).completions
    both = [
        (one.text, other.text)
        for rows in zip(chosen_by, measured, strict=True)
        for one, other in zip(*rows, strict=True)
    ]
    assert sum(one != other for one, other in both) > len(both) // 2


def test_an_evaluation_survives_json(model: LlamaForCausalLM, tokenizer: Any, rows: Any, prompts: Any) -> None:
    evaluation = evaluator().evaluate(model, tokenizer, rows, prompts)
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == evaluation
    assert "prompts" not in evaluation.summary()["toxicity"]
    assert "prompts" in evaluation.to_json()["toxicity"]
    scalars = evaluation.scalars()
    assert scalars["perplexity/sliding"] == pytest.approx(evaluation.perplexity["sliding"].perplexity)
    assert {"perplexity/disjoint", "toxicity/mean", "toxicity/probability", "uniqueness", "length"} <= scalars.keys()


def test_either_half_may_be_left_out(model: LlamaForCausalLM, tokenizer: Any, rows: Any, prompts: Any) -> None:
    text_only = evaluator(scorer=None).evaluate(model, tokenizer, rows, None)
    assert text_only.toxicity is None
    assert Evaluation.from_json(text_only.to_json()) == text_only
    assert evaluator().evaluate(model, tokenizer, None, prompts).perplexity == {}
    with pytest.raises(ValueError, match="needs a scorer"):
        evaluator(scorer=None).evaluate(model, tokenizer, rows, prompts)


def test_named_protocols_fix_the_decoding() -> None:
    assert Evaluator().decoding == Decoding(50, 0.7, 0.9, 1, 0)
    assert Evaluator(toxicity_protocol="rtp").decoding == Decoding(20, 1.0, 0.9, 25, 0)
    assert Evaluator(decoding=Decoding(seed=7)).decoding.seed == 7
    with pytest.raises(ValueError, match="`decoding` must be protocol `document`'s own"):
        Evaluator(decoding=Decoding(top_p=0.95))
    assert Evaluator(decoding=Decoding(top_p=0.95), toxicity_protocol="custom").decoding.top_p == 0.95


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(ValueError, match="toxicity_protocol"):
        Evaluator(toxicity_protocol="gehman")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="perplexity_protocols"):
        Evaluator(perplexity_protocols=["wikitext"])  # type: ignore[list-item]
    for option in ("batch_size", "max_tokens"):
        with pytest.raises(ValueError, match=rf"`{option}` must be at least 1, got 0. Set `Evaluator.init_args"):
            Evaluator(**{option: 0})


def test_progress_wraps_every_loop(model: LlamaForCausalLM, tokenizer: Any, rows: Any, prompts: Any) -> None:
    seen: list[tuple[str, int]] = []

    def progress(items: Any, total: int, description: str) -> Any:
        assert len(items) == total
        seen.append((description, total))
        return items

    evaluator(batch_size=4).evaluate(model, tokenizer, rows, prompts, progress)
    assert [name for name, _ in seen] == ["perplexity (sliding)", "perplexity (disjoint)", "generate and score"]
    assert seen[2][1] == math.ceil(7 * 2 / 4)


def test_check_says_how_many_forward_passes_there_are(
    model: LlamaForCausalLM, tokenizer: Any, rows: Any, prompts: Any
) -> None:
    made: list[int] = []
    model.register_forward_hook(lambda module, args, output: made.append(1))
    brief = evaluator(batch_size=4)
    windows = brief.check(model, tokenizer, rows, None)
    brief.evaluate(model, tokenizer, rows, None)
    assert [(kind.what, kind.unit) for kind in windows] == [
        ("perplexity (sliding)", "windows"), ("perplexity (disjoint)", "windows"),
    ]  # fmt: skip
    assert len(made) == sum(kind.num for kind in windows) > 2
    made.clear()
    (completions,) = brief.check(model, tokenizer, None, prompts)
    brief.evaluate(model, tokenizer, None, prompts)
    num_batches = math.ceil(completions.num_items / 4)
    assert (completions.num_items, completions.num) == (7 * 2, num_batches * (brief.decoding.max_new_tokens + 1))
    assert num_batches < len(made) <= completions.num, "some may end early"


def test_how_long_it_takes_is_told_by_a_window_and_a_few_tokens(
    model: LlamaForCausalLM, tokenizer: Any, rows: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each thing that is timed takes three seconds."""
    timed: list[int] = []
    made: list[int] = []
    model.register_forward_hook(lambda module, args, output: made.append(1))

    def three_seconds(run: Any, device: torch.device) -> float:
        made.clear()
        run()
        timed.append(len(made))
        return 3.0

    monkeypatch.setattr("sparc3_lightning.evaluation.evaluator._seconds_of", three_seconds)
    brief = evaluator(batch_size=4)
    windows, completions = brief.check(model, tokenizer, rows, None), brief.check(model, tokenizer, None, prompts)
    assert brief.seconds(model, tokenizer, rows, None) == 3 * sum(kind.num_items for kind in windows)
    assert timed == [1, 1]
    few = min(4, brief.decoding.max_new_tokens) + 1  # a token each, and the prompts
    assert brief.seconds(model, tokenizer, None, prompts) == pytest.approx(3 / few * completions[0].num)
    assert timed[2] <= few
    assert brief.seconds(model, tokenizer, None, None) == 0


def test_what_an_evaluation_takes_is_a_line() -> None:
    passes = [Passes("perplexity (sliding)", 20, 640, "windows"), Passes("generation", 1000, 3200, "completions")]
    kinds = "20 for perplexity (sliding) of 640 windows, 1,000 for generation of 3,200 completions"
    assert describe_passes(passes) == f"evaluation: 1,020 forward passes at most ({kinds})"
    assert describe_passes(passes, 3, "baseline, pruned, 1 control") == (
        f"evaluation: 3 models (baseline, pruned, 1 control), 1,020 forward passes each at most ({kinds}), 3,060 in all"
    )


def test_a_config_builds_it_without_loading_anything() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(Evaluator, "evaluator")
    config = {
        "scorer": {"class_path": "sparc3_lightning.metrics.DetoxifyScorer", "init_args": {"model_type": "unbiased"}},
        "decoding": {"max_new_tokens": 20, "temperature": 1.0, "top_p": 0.9, "num_completions": 25, "seed": 3},
        "toxicity_protocol": "rtp",
        "perplexity_protocols": ["disjoint"],
    }
    built = parser.instantiate(parser.parse_object({"evaluator": config})).evaluator
    assert isinstance(built.scorer, DetoxifyScorer)
    assert built.decoding == Decoding(20, 1.0, 0.9, 25, 3)
    assert built.perplexity_protocols == ["disjoint"]


def test_an_added_end_and_a_second_beginning_change_no_figure(model: LlamaForCausalLM) -> None:
    """Without the check a completion would follow the text's end, and a text would end in one more token."""
    plain = evaluator().evaluate(model, make_tokenizer(), make_rows(), make_prompts())
    assert plain.toxicity is not None
    none = {"num_trailing_eos": 0, "num_doubled_bos": 0, "num_control_tokens": 0}
    assert plain.toxicity.token_counts == plain.perplexity["sliding"].token_counts == none
    rendered = [TextPrompt(prompt.id, f"<s> {prompt.text}") for prompt in make_prompts()]
    rows = ["<s>", *make_rows()]
    found = evaluator().evaluate(model, make_tokenizer(adds_eos=True), rows, rendered)
    assert found.toxicity is not None
    assert found.toxicity.token_counts == {"num_trailing_eos": 7, "num_doubled_bos": 7, "num_control_tokens": 0}
    assert [row.completions for row in found.toxicity.prompts] == [row.completions for row in plain.toxicity.prompts]
    for protocol, result in found.perplexity.items():
        assert result.token_counts == {"num_trailing_eos": 1, "num_doubled_bos": 1, "num_control_tokens": 0}
        assert result.window_losses == plain.perplexity[protocol].window_losses
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_control_tokens_of_plain_text_are_counted(model: LlamaForCausalLM) -> None:
    prompts = [TextPrompt("html", "w5 <s> w6 </s> w7"), TextPrompt("plain", "w5 unknown")]
    found = evaluator().evaluate(model, make_tokenizer(), [*make_rows(), "w3 </s> w4"], prompts)
    assert found.toxicity is not None
    assert found.toxicity.token_counts["num_control_tokens"] == 2
    assert found.perplexity["disjoint"].token_counts["num_control_tokens"] == 1


def test_tokens_that_the_model_has_not_are_refused_by_name(model: LlamaForCausalLM) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["emoji"])
    bad, told = f"must hold token ids between 0 and {VOCABULARY - 1}, got 0 to {VOCABULARY}", "Set `model.tokenizer`"
    prompts, rows = [*make_prompts(), TextPrompt("mine-8", "w3 emoji")], [*make_rows(), "w3 emoji"]
    for ask in (evaluator().check, evaluator().evaluate):
        ask(model, tokenizer, make_rows(), make_prompts())
        with pytest.raises(ValueError, match=f"prompt `mine-8` of `evaluation_prompts` {bad}.*{told}"):
            ask(model, tokenizer, None, prompts)
        with pytest.raises(ValueError, match=f"`evaluation_text` {bad}.*{told}"):
            ask(model, tokenizer, rows, None)


@pytest.mark.parametrize(
    ("rows", "prompts", "message"),
    [
        (["w3 w4"], None, "protocol `disjoint` needs a text of at least 16 tokens, got 3"),
        (None, [TextPrompt("a", "w3"), TextPrompt("a", "w4")], "have ids of their own"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_any_work(
    model: LlamaForCausalLM, rows: Any, prompts: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluator().check(model, make_tokenizer(), rows, prompts)


class FirstTokens(CompletionMeasure):
    """A measure as a user would write it."""

    name, unit, better = "first/number", "number", "higher"

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def values(self, completions: Sequence[Completion]) -> Tensor:
        return torch.tensor([self.factor * item.token_ids[0] if item.token_ids else math.nan for item in completions])


class WordLoss(Measure):
    """A measure that passes the model itself, over words of its own."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def columns(self, material: Material) -> Iterator[Column]:
        ids = torch.tensor([material.tokenizer(word)["input_ids"] for word in self.words])
        values = material.model(ids).logits[:, -1].log_softmax(-1).amax(dim=1)
        yield Column("word/log_probability", "nats", "lower", "word", "mean", self.words, values)


def test_measures_of_a_config_are_columns_like_any_other(
    model: LlamaForCausalLM, tokenizer: Any, rows: Any, prompts: Any
) -> None:
    words = ["w4", "w5", "w6"]
    measuring = evaluator(measures=[FirstTokens(2.0), WordLoss(words)])
    found = measuring.evaluate(model, tokenizer, rows, prompts)
    assert found.toxicity == evaluator().evaluate(model, tokenizer, rows, prompts).toxicity
    assert list(found.columns)[-2:] == ["first/number", "word/log_probability"]
    completions = generate(model, tokenizer, prompts, DECODING).completions
    firsts = [[2.0 * item.token_ids[0] if item.token_ids else math.nan for item in row] for row in completions]
    assert found.columns["first/number"].values.tolist() == pytest.approx(
        [pytest.approx(row, nan_ok=True) for row in firsts]
    )
    assert list(found.columns["first/number"].ids) == [prompt.id for prompt in prompts]
    again = measuring.evaluate(model, tokenizer, rows, prompts)
    changes = compare(found.columns, again.columns)
    assert (changes["word/log_probability"].change, changes["word/log_probability"].num_pairs) == (0.0, 3)
    text = json.dumps(found.to_json(), allow_nan=False)
    back = Evaluation.from_json(json.loads(text))
    assert back.scalars() == found.scalars()
    assert "measures" not in found.summary()
    assert compare(found.columns, back.columns)["first/number"].change == 0.0
    alone = measuring.evaluate(model, tokenizer, rows, None)
    assert list(alone.columns) == ["perplexity/sliding", "perplexity/disjoint", "word/log_probability"]


def test_what_a_measure_depends_on_is_part_of_the_setting(prompts: Any) -> None:
    plain, two, three = (
        evaluator(measures=measures).setting(None, prompts)
        for measures in (None, [FirstTokens(2.0)], [FirstTokens(3.0)])
    )
    assert "measures" not in plain
    assert two["measures"][0]["factor"] == 2.0
    assert two["measures"][0]["class"].endswith("test_evaluator.FirstTokens")
    assert two != three


def test_a_measure_that_hides_what_it_depends_on_is_refused(prompts: Any) -> None:
    """Two that differ would share a kept figure."""

    class Hidden(WordLoss):
        def __init__(self, vocabulary: list[str]) -> None:
            super().__init__(vocabulary)

    with pytest.raises(ValueError, match=r"Hidden must keep its argument `vocabulary`, a JSON value, .*`setting`"):
        evaluator(measures=[Hidden(["w4"])]).setting(None, prompts)
    with pytest.raises(ValueError, match="must keep its argument `words`"):
        evaluator(measures=[WordLoss([torch.zeros(1)])]).setting(None, prompts)  # type: ignore[list-item]


def test_two_measures_of_one_name_are_refused(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    with pytest.raises(ValueError, match="`measures` must give columns of different names, got `first/number` twice"):
        evaluator(measures=[FirstTokens(), FirstTokens(2.0)]).evaluate(model, tokenizer, None, prompts)
    with pytest.raises(ValueError, match="`uniqueness` twice"):
        evaluator(measures=[Repetition()]).evaluate(model, tokenizer, None, prompts)
