"""Trials: measured once, kept, found again, undone, and reported where they fail."""

import math
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.data.samples import Prompt
from sparc3_lightning.evaluation import Decoding, Evaluation, Evaluator
from sparc3_lightning.files import acquire, json_sha256, release
from sparc3_lightning.metrics import JointScorer, LexicalScorer, Scorer
from sparc3_lightning.metrics.perplexity import PerplexityResult
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.weight_recipe import WeightRecipe
from sparc3_lightning.trials.store import TrialStore
from sparc3_lightning.trials.trial import (
    UNCHANGED,
    Trial,
    Trials,
    check_one_is_done,
    masked_weights,
    removed,
    run_trials,
    scaled_neurons,
)
from tests.tiny import tiny_llama


def silent(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
    return items


def evaluation(loss: float) -> Evaluation:
    result = PerplexityResult("disjoint", math.exp(loss), loss, 3, 2, 1, 3, 3, False, [2 * loss])
    return Evaluation({"disjoint": result}, None)


class ZeroCounter(Evaluator):
    """Its loss is the number of neurons that are gone; it says what it was asked, and fails where told to."""

    def __init__(self, failing: tuple[int, BaseException] | None = None, seed: int = 0) -> None:
        super().__init__(decoding=Decoding(seed=seed), toxicity_protocol="custom")
        self.asked: list[int] = []
        self.failing = failing

    def evaluate(self, model: PreTrainedModel, *args: Any, **options: Any) -> Evaluation:
        gone = sum(int((layer.mlp.down_proj.weight == 0).all(0).sum()) for layer in model.model.layers)
        self.asked.append(gone)
        if self.failing is not None and self.failing[0] == gone:
            raise self.failing[1]
        return evaluation(gone)


MODEL = tiny_llama()


def trials(home: Path, evaluator: Evaluator | None = None, **identity: str) -> Trials:
    return Trials(TrialStore(home), identity, MODEL, None, evaluator or ZeroCounter(), ["w4"], None)  # type: ignore[arg-type]


def neurons(*sizes: int) -> list[Trial]:
    """Trials that remove so many neurons of the first layer."""
    return [Trial(intervention=scaled_neurons(Recipe([(0, index) for index in range(size)]))) for size in sizes]


def run(planned: list[Trial], home: Path, evaluator: Evaluator, keep: Any = None) -> list[float | None]:
    """The losses, as far as there are any."""
    measures, losses = trials(home, evaluator), dict[int, float]()
    for trial in planned:
        trial.name = None if trial.intervention is None else measures.name(trial.intervention)

    def note(trial: Trial, found: Evaluation) -> None:
        losses[id(trial)] = found.perplexity["disjoint"].mean_loss

    assert list(run_trials(planned, measures, keep or note, silent, "trials")) == planned
    return [losses.get(id(trial)) for trial in planned]


def bits(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone().view(torch.uint8) for name, weight in model.named_parameters()}


def test_trials_are_read_again_and_not_measured_again(tmp_path: Path) -> None:
    first, second, before = ZeroCounter(), ZeroCounter(), bits(MODEL)
    assert run(neurons(3, 5), tmp_path, first) == [3, 5]
    again = neurons(3, 5, 7)
    assert run(again, tmp_path, second) == [3, 5, 7]
    assert (first.asked, second.asked) == ([3, 5], [7])
    assert [trial.is_reused for trial in again] == [True, True, False]
    assert len(list(tmp_path.iterdir())) == 3, "no lock is left behind"
    assert all(torch.equal(weight, before[name]) for name, weight in bits(MODEL).items())


def test_a_failure_is_reported_tried_again_and_costs_no_other(tmp_path: Path) -> None:
    broken = neurons(3, 5, 5, 7)
    evaluator = ZeroCounter((5, RuntimeError("out of memory")))
    assert run(broken, tmp_path, evaluator) == [3, None, None, 7]
    assert [trial.error for trial in broken] == [None, *["RuntimeError: out of memory"] * 2, None]
    assert evaluator.asked == [3, 5, 7], "what failed fails again"
    check_one_is_done(broken, "trials")
    mended = ZeroCounter()
    assert run(neurons(3, 5, 7), tmp_path, mended) == [3, 5, 7]
    assert mended.asked == [5]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left")])
def test_an_interrupt_or_a_full_disk_ends_all_and_keeps_what_is_done(error: BaseException, tmp_path: Path) -> None:
    before = bits(MODEL)
    with pytest.raises(type(error)):
        run(neurons(3, 5, 7), tmp_path, ZeroCounter((5, error)))
    assert len(list(tmp_path.iterdir())) == 1
    assert all(torch.equal(weight, before[name]) for name, weight in bits(MODEL).items())


def test_the_same_intervention_is_measured_once(tmp_path: Path) -> None:
    recipe, same = Recipe([(0, 2), (0, 1)], [-2.0, -1.0]), Recipe([(0, 1), (0, 2)])
    planned = [
        Trial(intervention=one)
        for one in (scaled_neurons(recipe), scaled_neurons(same), scaled_neurons(recipe, 0.5), UNCHANGED)
    ]
    evaluator = ZeroCounter()
    assert run(planned, tmp_path, evaluator) == [2, 2, 0, 0]
    assert evaluator.asked == [2, 0, 0]
    assert [trial.is_reused for trial in planned] == [False, True, False, False]


def test_masks_are_not_made_to_find_that_a_trial_is_done(tmp_path: Path) -> None:
    made = []

    def masks() -> Iterable[tuple[str, Tensor]]:
        made.append(1)
        yield "model.layers.0.mlp.down_proj", torch.ones(16, 24, dtype=torch.bool)

    for _ in range(2):
        planned = [Trial(intervention=masked_weights({"method": "all"}, masks))]
        assert run(planned, tmp_path, ZeroCounter()) == [24]
    assert len(made) == 1
    assert run([Trial(intervention=masked_weights({"method": "other"}, masks))], tmp_path, ZeroCounter()) == [24]
    assert len(made) == 2


def test_a_damaged_file_is_measured_again(tmp_path: Path) -> None:
    run(neurons(3), tmp_path, ZeroCounter())
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    for content in (whole[:-20], whole.replace('"neurons"', '"neuron"'), '{"key": {}}', "[]"):
        file.write_text(content)
        evaluator = ZeroCounter()
        run(neurons(3), tmp_path, evaluator)
        assert evaluator.asked == [3]
        assert run(neurons(3), tmp_path, ZeroCounter((3, RuntimeError("measured again")))) == [3]


def test_whole_evaluations_are_kept(tmp_path: Path) -> None:
    """Statistics can be made of them again, without a model; and how long it took is known."""
    measures = trials(tmp_path)
    first, again = (measures.measure(scaled_neurons(Recipe([(0, 1), (0, 2)]))) for _ in range(2))
    assert first.evaluation == again.evaluation == evaluation(2)
    assert (first.is_reused, again.is_reused) == (False, True)
    assert first.seconds == again.seconds > 0


def test_figures_that_cannot_be_made_fail_one_alone_and_nothing_is_measured_again(tmp_path: Path) -> None:
    def fails(trial: Trial, found: Evaluation) -> None:
        if found == evaluation(3):
            raise ValueError("another setting")

    planned, evaluator = neurons(3, 5), ZeroCounter()
    run(planned, tmp_path, evaluator, fails)
    run(neurons(3, 5), tmp_path, evaluator, fails)
    assert [trial.error for trial in planned] == ["ValueError: another setting", None]
    assert evaluator.asked == [3, 5]


def test_what_could_not_be_made_is_passed_over(tmp_path: Path) -> None:
    planned = [Trial(error="ValueError: too many"), *neurons(3)]
    assert run(planned, tmp_path, ZeroCounter()) == [None, 3]
    with pytest.raises(ValueError, match=r"all 1 trials failed, the first \(Trial.* with ValueError: too many"):
        check_one_is_done(planned[:1], "trials")


# Two runs, one directory


def measured_meanwhile(home: Path, name: str, begun: Any) -> None:
    """Another run: it has the lock, and keeps what it has found before it lets go."""
    lock = acquire(home / f".{name}.lock")
    begun.set()
    store = TrialStore(home)
    key = trials(home)._key(UNCHANGED)
    store._save(name, key, store.measure({"other": "trial"}, lambda: evaluation(17)))
    release(lock)


def test_a_run_waits_for_another_that_measures_the_same(tmp_path: Path) -> None:
    context, evaluator = multiprocessing.get_context("forkserver"), ZeroCounter()
    begun = context.Event()
    other = context.Process(target=measured_meanwhile, args=(tmp_path, trials(tmp_path).name(UNCHANGED), begun))
    other.start()
    assert begun.wait(600)
    assert run([Trial(intervention=UNCHANGED)], tmp_path, evaluator) == [17]
    assert evaluator.asked == []
    other.join()


# The key

PROMPTS = [Prompt("0", "w1 w2"), Prompt("1", "w3")]


def setting(
    scorer: list[str] | None = None, decoding: Decoding | None = None, prompts: list[Prompt] = PROMPTS,
    rows: tuple[str, ...] = ("w4",), **options: Any,
) -> dict[str, Any]:  # fmt: skip
    evaluator = Evaluator(
        LexicalScorer(scorer or ["w1"]), decoding or Decoding(), toxicity_protocol="custom", **options
    )
    return evaluator.setting(list(rows), prompts)


@pytest.mark.parametrize(
    "changed",
    [
        {"scorer": ["w2"]},
        {"scorer": ["w1", "unheard"]},
        {"decoding": Decoding(seed=1)},
        {"prompts": [Prompt("0", "w1 w2"), Prompt("2", "w3")]},
        {"prompts": []},
        {"rows": ("w5",)},
        {"rows": ()},
        {"window": 16},
        {"stride": 4},
        {"threshold": 0.6},
        {"perplexity_protocols": ["sliding"]},
    ],
)
def test_a_setting_holds_all_that_an_evaluation_depends_on(changed: dict[str, Any]) -> None:
    assert setting(**changed) != setting()


def test_a_setting_holds_the_words_of_a_joined_scorer() -> None:
    """No prompt holds them; completions may."""

    def joint(word: str) -> dict[str, Any]:
        scorers: list[Scorer] = [LexicalScorer(["w1"]), LexicalScorer([word])]
        scorers[1].name = "second"
        return Evaluator(JointScorer(scorers), toxicity_protocol="custom").setting(["w4"], PROMPTS)

    assert joint("unheard") == joint("unheard")
    assert joint("unheard") != joint("unseen")


def test_what_evaluations_do_not_depend_on_is_no_part_of_it() -> None:
    for option in ("batch_size", "max_tokens", "num_draws", "statistics_seed"):
        assert setting(**{option: 2}) == setting(**{option: 16}), option
    assert setting(prompts=[], decoding=Decoding(seed=1), threshold=0.6) == setting(prompts=[]), "a text alone"


def test_a_name_follows_from_intervention_model_and_evaluator(tmp_path: Path) -> None:
    recipe = Recipe([(0, 1), (1, 2)])
    one, other = scaled_neurons(recipe), scaled_neurons(Recipe([(0, 1)]))
    plain = trials(tmp_path, weight_hash="a", dtype="float32")
    names = [plain.name(what) for what in (one, other, scaled_neurons(recipe, 0.5), UNCHANGED)]
    names += [trials(tmp_path, weight_hash="b", dtype="float32").name(one)]
    names += [trials(tmp_path, weight_hash="a", dtype="bfloat16").name(one)]
    names += [trials(tmp_path, Evaluator(window=16), weight_hash="a", dtype="float32").name(one)]
    assert len(set(names)) == len(names)
    assert plain.name(one) == trials(tmp_path, dtype="float32", weight_hash="a").name(one)
    assert plain.name(one) == json_sha256(plain._key(one))


def test_single_weights_are_a_trial_by_their_indices(tmp_path: Path) -> None:
    down, shape = "model.layers.1.mlp.down_proj", (16, 24)
    base = {"model_type": "llama", "num_layers": 2}

    def of(columns: list[int], **options: str) -> WeightRecipe:
        indices = np.sort([row * 24 + column for column in columns for row in range(16)])
        return WeightRecipe({down: indices}, {down: shape}, base_model=base, options=dict(options))

    one = removed(of([2, 7]))
    assert one.key == {"kind": "weights", "indices": of([2, 7], scope="layer").sha256}
    assert (one.first_block, removed(of([2])).key == one.key) == (1, False)
    planned = [Trial(intervention=removed(of(columns))) for columns in ([2], [2, 7], [7, 2])]
    evaluator = ZeroCounter()
    assert run(planned, tmp_path, evaluator) == [1, 2, 2]
    assert evaluator.asked == [1, 2], "the same weights are one trial"
    assert removed(Recipe([(0, 1)])).key == scaled_neurons(Recipe([(0, 1)])).key
