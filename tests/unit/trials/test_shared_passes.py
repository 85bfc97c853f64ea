"""Perplexities of a run's models share the forward pass below the first block that any of them changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from sparc3_lightning.evaluation import Evaluation, Evaluator
from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.trials.store import TrialStore
from sparc3_lightning.trials.trial import UNCHANGED, Intervention, Trials, masked_weights, scaled_neurons
from tests.tiny import TINY, tiny_llama
from tests.unit.evaluation.tiny import make_tokenizer

ROWS = [" ".join(f"w{3 + (n * n + k * k) % 40}" for k in range(9)) for n in range(12)]
PRUNED, CONTROL = (scaled_neurons(Recipe([(1, first), (1, first + 3)])) for first in (2, 9))


class Blocks:
    """Counts how often each block of a model computes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.ran: list[int] = []
        family = get_family(model.config.model_type)
        for number, block in enumerate(family.block_modules(model)):
            down = block.get_submodule(family.down)
            down.register_forward_hook(lambda *args, number=number: self.ran.append(number))

    def counts(self) -> list[int]:
        """Of blocks 0 and 1, since the last call."""
        found = [self.ran.count(number) for number in (0, 1)]
        self.ran.clear()
        return found


def evaluator(**options: Any) -> Evaluator:
    return Evaluator(**{"window": 16, "batch_size": 4, **options})


def trials(model: PreTrainedModel, home: Path, **options: Any) -> Trials:
    return Trials(TrialStore(home), {}, model, make_tokenizer(), evaluator(**options), ROWS, None)


def whole(model: PreTrainedModel, intervention: Intervention) -> Evaluation:
    """By all blocks."""
    with intervention.apply(model):
        return evaluator().evaluate(model, make_tokenizer(), ROWS, None)


def measured(trials: Trials, *interventions: Intervention) -> list[Evaluation]:
    return [trials.measure(one, to_follow=interventions[n + 1 :]).evaluation for n, one in enumerate(interventions)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", TINY)
def test_shared_passes_give_the_same_to_the_last_bit(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = TINY[family](dtype=dtype)
    todo = UNCHANGED, PRUNED, CONTROL
    expected, blocks = [whole(model, one) for one in todo], Blocks(model)
    tested = trials(model, tmp_path)
    found = []
    for number, one in enumerate(todo):
        found.append(tested.measure(one, to_follow=todo[number + 1 :]).evaluation)
        lower, upper = blocks.counts()
        assert lower == (0 if number else upper)
        assert upper > 2
    assert found == expected
    assert found[0] != found[1] != found[2]
    assert whole(model, PRUNED) == expected[1], "nothing is left on the model"
    assert blocks.counts()[0] > 0


def test_without_a_baseline_pass_the_first_trial_gives_the_others_what_they_begin_from(tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.float64)
    measured(trials(model, tmp_path), UNCHANGED)
    blocks, again = Blocks(model), trials(model, tmp_path)
    todo = UNCHANGED, PRUNED, CONTROL
    found = measured(again, *todo)
    lower, upper = blocks.counts()
    assert upper == 2 * lower, "the baseline was read, the pruned model's pass kept"
    assert found == [whole(model, one) for one in todo]


def test_nothing_is_kept_for_what_changes_the_first_block(tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.float64)
    todo = UNCHANGED, scaled_neurons(Recipe([(0, 4), (1, 5)])), masked_weights({}, lambda: [])
    tested, expected, blocks = trials(model, tmp_path), [whole(model, one) for one in todo], Blocks(model)
    assert measured(tested, *todo) == expected
    assert len(set(blocks.counts())) == 1
    assert tested._lower.num_bytes == 0


def test_what_lies_above_a_change_is_not_kept_from_its_pass(tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.float64, num_hidden_layers=4)
    todo = [scaled_neurons(Recipe([(layer, 2), (3, 5)])) for layer in (1, 3, 2, 0)]
    expected = [whole(model, one) for one in (*todo, UNCHANGED)]
    assert measured(trials(model, tmp_path), *todo, UNCHANGED) == expected


def test_what_does_not_fit_is_computed_again(tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.float64)
    one_batch = 4 * 16 * model.config.hidden_size * 8
    tested = trials(model, tmp_path, shared_gigabytes=2.5 * one_batch / 1e9)
    blocks, expected = Blocks(model), [whole(model, one) for one in (UNCHANGED, PRUNED)]
    num_batches = blocks.counts()[0] // 2
    assert measured(tested, UNCHANGED, PRUNED) == expected
    lower, upper = blocks.counts()
    assert num_batches < lower < upper == 2 * num_batches
    assert one_batch < tested._lower.num_bytes <= 2.5 * one_batch


def test_nothing_is_kept_where_nothing_may_be(tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.float64)
    tested, blocks = trials(model, tmp_path, shared_gigabytes=0), Blocks(model)
    measured(tested, UNCHANGED, PRUNED)
    assert len(set(blocks.counts())) == 1
    assert tested._lower.num_bytes == 0
    with pytest.raises(ValueError, match=r"shared_gigabytes.*at least 0, got -1"):
        evaluator(shared_gigabytes=-1)
