"""The task measure: right above wrong, right above all, and by how much; any batches, with or without twins."""

import pytest
import torch
from torch import Tensor

from sparc3_lightning.data.samples import ReferenceSamples
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.task import TaskMeasure, batches_of
from sparc3_lightning.metrics.measure import Column
from tests.tiny import VOCAB, tiny_llama

LENGTHS = [4, 6, 4, 5, 6, 4]


def samples() -> ReferenceSamples:
    generator = torch.Generator().manual_seed(0)
    ids, twins = ([torch.randint(3, VOCAB, (length,), generator=generator) for length in LENGTHS] for _ in range(2))
    right, wrong = (torch.randint(3, VOCAB, (len(LENGTHS),), generator=generator) for _ in range(2))
    names = [str(number) for number in range(len(LENGTHS))]
    return ReferenceSamples(
        ids, {}, names, following=list(right[:, None].unbind(0)), against=wrong.tolist(), corrupted=twins
    )


def measured(asked: ReferenceSamples, **options: int) -> dict[str, Column]:
    evaluator = Evaluator(measures=[TaskMeasure(asked, "task", options.pop("twins", 0) > 0)], **options)
    model = tiny_llama(dtype=torch.float64)
    return dict(evaluator.evaluate(model, None, None, None).columns)  # type: ignore[arg-type] # nothing is tokenised


@torch.no_grad()
def expected(asked: ReferenceSamples) -> Tensor:
    model = tiny_llama(dtype=torch.float64)
    return torch.stack([model(input_ids=ids[None]).logits[0, -1] for ids in asked.ids])


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"max_tokens": 9}, {"twins": 1}])
def test_columns_are_those_of_each_sample_alone(options: dict[str, int]) -> None:
    asked = samples()
    logits = expected(asked)
    right = logits.gather(1, torch.tensor(asked.targets)[:, None])[:, 0]
    wrong = logits.gather(1, torch.tensor(asked.against)[:, None])[:, 0]
    found = measured(asked, **dict(options))
    assert list(found) == ["task/accuracy", "task/argmax_accuracy", "task/logit_difference"]
    torch.testing.assert_close(found["task/logit_difference"].values, right - wrong, rtol=1e-5, atol=1e-5)
    assert found["task/accuracy"].values.tolist() == (right > wrong).double().tolist()
    assert found["task/argmax_accuracy"].values.tolist() == (right >= logits.amax(1)).double().tolist()


def test_batches_hold_one_length_and_every_sample_once() -> None:
    ids = samples().ids
    batches = batches_of(ids, 2, 100)
    assert sorted(place for batch in batches for place in batch) == list(range(len(ids)))
    assert all(len({len(ids[place]) for place in batch}) == 1 and len(batch) <= 2 for batch in batches)
    assert all(len(batch) == 1 for batch in batches_of(ids, 8, 3))


def test_what_it_depends_on_is_its_key() -> None:
    asked = samples()
    plain, with_twins = TaskMeasure(asked).setting(), TaskMeasure(asked, with_twins=True).setting()
    assert plain != with_twins
    asked.against[0] += 1
    assert TaskMeasure(asked).setting() != plain


def test_what_is_not_finite_is_refused_by_name() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    with pytest.raises(ValueError, match="sample 0 must be finite, got nan"):
        Evaluator(measures=[TaskMeasure(samples())]).evaluate(model, None, None, None)  # type: ignore[arg-type]
