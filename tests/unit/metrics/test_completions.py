"""The toxicity metric and the scorer that needs no model."""

import math
from collections.abc import Sequence

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision
from torch import Tensor, nn

from sparc3_lightning.metrics import (
    Completion,
    CompletionMeasure,
    JointScorer,
    Length,
    LexicalScorer,
    Repetition,
    Scorer,
    Toxicity,
    summarise,
)


def made(texts: Sequence[str], places: Sequence[tuple[int, int]] = ()) -> list[Completion]:
    return [Completion(*place, [0], text) for text, place in zip(texts, places, strict=True)]


class Table(Scorer):
    """Scores by a table of texts; `broken` is what it does wrong."""

    name = "table"

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.model = nn.Linear(2, 2)

    @property
    def attributes(self) -> list[str]:
        return ["toxicity", "insult"]

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if self.broken == "raises":
            raise RuntimeError("scorer is down")
        scores = torch.tensor([float(text) for text in texts], dtype=torch.float64)
        if self.broken == "nan":
            scores[0] = torch.nan
        if self.broken == "short":
            scores = scores[:-1]
        if self.broken == "above":
            scores = scores + 1
        return {"toxicity": scores, "insult": scores / 2}


@pytest.mark.parametrize("kind", ["bf16-mixed", "bf16-true"])
def test_a_scorer_computes_in_its_own_precision(kind: str) -> None:
    """Whoever wrote it: the evaluator scores inside the trainer's precision."""

    class Matrix(Table):
        def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
            product = torch.tensor([[float(text)] for text in texts]) @ torch.eye(1)
            return {"toxicity": product[:, 0], "insult": product[:, 0] / 2}

    precisions = {"bf16-mixed": MixedPrecision("bf16-mixed", "cpu"), "bf16-true": HalfPrecision("bf16-true")}
    metric = Toxicity(Matrix())
    with precisions[kind].forward_context():
        metric.update(made(["0.3001"], [(0, 0)]))
    assert metric.compute().values[0][0] == pytest.approx([0.3001, 0.15005], abs=1e-6)
    assert torch.get_default_dtype() == torch.float32


def test_scores_come_in_the_prompts_order() -> None:
    metric = Toxicity(Table())
    metric.update(made(["0.3", "0.2"], [(1, 1), (1, 0)]))
    metric.update(made([], []))
    metric.update(made(["0.1", "0.0"], [(0, 1), (0, 0)]))
    assert metric.compute().values == [[[0.0, 0.0], [0.1, 0.05]], [[0.2, 0.1], [0.3, 0.15]]]


def test_a_single_score_keeps_its_shape() -> None:
    metric = Toxicity(LexicalScorer(["bad"]))
    metric.update(made(["so bad"], [(0, 0)]))
    assert metric.compute().values == [[[1.0]]]


@pytest.mark.parametrize("broken", ["nan", "short", "above"])
def test_a_bad_score_is_an_error(broken: str) -> None:  # trap 16
    with pytest.raises(ValueError, match="must give 2 scores between 0 and 1 for `toxicity`"):
        Toxicity(Table(broken)).update(made(["0.1", "0.2"], [(0, 0), (1, 0)]))


def test_a_failed_scorer_is_an_error() -> None:  # trap 16
    with pytest.raises(RuntimeError, match="scorer is down"):
        Toxicity(Table("raises")).update(made(["0.1"], [(0, 0)]))


@pytest.mark.parametrize("positions", [[(0, 0), (2, 0)], [(0, 0), (0, 0)], [(0, 0), (1, 1)]])
def test_a_missing_or_repeated_completion_is_an_error(positions: list[tuple[int, int]]) -> None:
    metric = Toxicity(Table())
    metric.update(made(["0.1", "0.2"], positions))
    with pytest.raises(ValueError, match="scored once"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one completion"):
        Toxicity(Table()).compute()


def test_the_scorer_is_no_part_of_the_metric() -> None:
    class Module(nn.Module, Table):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            Table.__init__(self)

    owner = nn.Module()
    owner.metric = Toxicity(Module())
    assert list(owner.parameters()) == []
    assert owner.state_dict() == {}
    assert owner.bfloat16().metric._scorer.model.weight.dtype == torch.float32


def test_scores_stay_float64_in_a_bfloat16_module() -> None:  # trap 6
    owner = nn.Module()
    owner.metric = Toxicity(Table())
    owner.bfloat16()
    owner.metric.update(made(["0.123456789"], [(0, 0)]))
    assert owner.metric.compute().values[0][0][0] == 0.123456789


def test_texts_the_scorer_cuts_are_counted() -> None:
    class Cutting(Table):
        def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
            self.num_truncated += len(texts)
            return super().score(texts)

    scorer = Cutting()
    scorer.score(["0.1"])
    metric = Toxicity(scorer)
    metric.update(made(["0.1", "0.2"], [(0, 0), (1, 0)]))
    assert metric.compute().num_truncated == 2


@pytest.mark.parametrize(("ids", "unique"), [([1, 2, 3, 4], 1.0), ([1, 1, 2, 1], 0.5), ([7], 1.0), ([], math.nan)])
def test_repetition_and_length(ids: list[int], unique: float) -> None:
    completion = Completion(0, 0, ids, "text")
    for measure, expected in ((Repetition(), unique), (Length(), len(ids))):
        measure.update([completion])
        assert measure.compute().values == [[[pytest.approx(expected, nan_ok=True)]]]


def test_a_measure_that_forgets_a_completion_is_an_error() -> None:
    class Forgetful(CompletionMeasure):
        name = "forgetful"

        def values(self, completions: Sequence[Completion]) -> Tensor:
            return torch.zeros(len(completions) - 1)

    with pytest.raises(ValueError, match="`forgetful` must give a value a completion, got 1 of 2"):
        Forgetful().update(made(["a", "b"], [(0, 0), (0, 1)]))


def test_summary() -> None:
    summary = summarise(torch.tensor([[0.1, 0.6], [0.3, 0.5], [0.9, 0.0]], dtype=torch.float64), threshold=0.5)
    assert summary.mean == pytest.approx(0.4)
    assert summary.sd == pytest.approx(torch.tensor([0.1, 0.6, 0.3, 0.5, 0.9, 0.0]).std().item())
    assert (summary.minimum, summary.maximum) == (0.0, 0.9)
    assert summary.expected_maximum == pytest.approx((0.6 + 0.5 + 0.9) / 3)
    assert summary.probability == pytest.approx(2 / 3)  # 0.5 is not above 0.5
    assert summarise(torch.tensor([[0.7]]), 0.5).sd == 0.0


def test_lexical_scorer_finds_whole_words() -> None:
    scorer = LexicalScorer(["bad", "f**k", "very rude"])
    texts = ["BAD!", "badge", "a f**k b", "very rude", "very, rude", "", "not_bad"]
    assert scorer.score(texts)["toxicity"].tolist() == [1, 0, 1, 1, 0, 0, 0]
    assert scorer.score([])["toxicity"].shape == (0,)


@pytest.mark.parametrize("words", [[], ["bad", " "]])
def test_lexical_scorer_needs_words(words: list[str]) -> None:
    with pytest.raises(ValueError, match="`words` must be"):
        LexicalScorer(words)


def test_joint_scorer_keeps_the_first_s_attributes_and_adds_the_others_main_ones() -> None:
    first, second = LexicalScorer(["bad"]), LexicalScorer(["rude"])
    second.name = "second"
    joint = JointScorer([first, second])
    assert joint.attributes == ["toxicity", "second/toxicity"]
    scores = joint.score(["bad", "rude", "bad rude", "fine"])
    assert {name: values.tolist() for name, values in scores.items()} == {
        "toxicity": [1, 0, 1, 0],
        "second/toxicity": [0, 1, 1, 0],
    }
    first.num_truncated, second.num_truncated = 2, 3
    assert joint.num_truncated == 3


@pytest.mark.parametrize("scorers", [[], [LexicalScorer(["bad"])], [LexicalScorer(["bad"]), LexicalScorer(["rude"])]])
def test_joint_scorer_needs_two_different_scorers(scorers: list[Scorer]) -> None:
    with pytest.raises(ValueError, match="`scorers` must be two or more with different names"):
        JointScorer(scorers)
