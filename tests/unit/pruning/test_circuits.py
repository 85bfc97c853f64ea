"""What stays: the share that a method scores highest, neurons of all layers together, weights of all or of a row."""

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning import circuits
from sparc3_lightning.pruning.circuits import (
    Contest,
    Importance,
    Order,
    Scope,
    bits_sha256,
    keep_neurons,
    kth_highest,
    num_kept,
)
from sparc3_lightning.scoring.lazy import LazyScores
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.tiny import LAYERS, NEURONS, tiny_llama


def neuron_set(*layers: list[float]) -> ScoreSet:
    scores = {f"model.layers.{layer}.mlp.up_proj": torch.tensor(values) for layer, values in enumerate(layers)}
    return ScoreSet(scores, {"base_model": {"model_type": "llama"}})  # type: ignore[typeddict-item]


def neurons(kept: dict[int, Tensor]) -> set[tuple[int, int]]:
    return {(layer, int(index)) for layer, stays in kept.items() for index in stays.nonzero()[:, 0]}


@pytest.mark.parametrize(
    ("order", "expected"),
    [("highest", {(0, 1), (1, 2)}), ("magnitude", {(1, 0), (0, 1)}), ("lowest", {(1, 0), (0, 0)})],
)
def test_a_method_says_what_stays(order: Order, expected: set[tuple[int, int]]) -> None:
    scores = neuron_set([-2.0, 5.0, 0.5], [-7.0, 0.0, 3.0])
    assert neurons(keep_neurons(Importance("some", scores, order), 2 / 6)) == expected


def test_ties_go_to_the_lower_place_and_shares_to_the_nearest_number() -> None:
    scores = Importance("some", neuron_set([1.0, 1.0], [1.0, 1.0]))
    assert neurons(keep_neurons(scores, 0.5)) == {(0, 0), (0, 1)}
    assert neurons(keep_neurons(scores, 0.0)) == set()
    assert len(neurons(keep_neurons(scores, 1.0))) == 4
    assert [num_kept(share, 100) for share in (0.0, 0.001, 0.014, 0.016, 1.0)] == [0, 1, 1, 2, 100]


def test_a_neuron_of_weights_has_their_sum() -> None:
    weights = ScoreSet({"model.layers.0.mlp.up_proj": torch.tensor([[1.0, 1.0], [5.0, -4.5], [0.0, 1.0]])},
                       {"base_model": {"model_type": "llama"}})  # type: ignore[typeddict-item] # fmt: skip
    assert neurons(keep_neurons(Importance("some", weights), 1 / 3)) == {(0, 0)}


def test_bits_name_what_stays() -> None:
    one, other = keep_neurons(Importance("a", neuron_set([1.0, 2.0])), 0.5), {0: torch.tensor([False, True])}
    assert bits_sha256(one) == bits_sha256(other)
    assert bits_sha256(one) != bits_sha256({0: torch.tensor([True, False])})


VALUES = [
    torch.randn(300, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3.0e38, -3.0e38, 1.0, 1.0, 1.0]),
    -torch.rand(50, generator=torch.Generator().manual_seed(1)),
]


def test_the_kth_highest_is_found_without_a_sort() -> None:
    values = torch.cat(VALUES)
    ordered, passes = values.sort(descending=True).values, 0

    def parts() -> Iterator[Tensor]:
        nonlocal passes
        passes += 1
        return iter(VALUES)

    found = kth_highest(parts, range(1, len(values) + 1))
    assert passes == 2, "however many are asked for"
    for k, (threshold, equals) in enumerate(found, start=1):
        assert threshold == ordered[k - 1].item()
        assert int((values > threshold).sum()) + equals == k
    assert kth_highest(parts, [7]) == [found[6]], "alone as among others"


def test_keys_of_a_layer_are_made_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, sizes = [torch.cat(VALUES).reshape(-1, 1), torch.zeros(0, 4), torch.ones(3, 4)], list[int]()
    whole = kth_highest(lambda: iter(layers), [1, 60, 371])

    def keys(values: Tensor) -> Tensor:
        sizes.append(len(values))
        return made(values)

    made = circuits._keys
    monkeypatch.setattr(circuits, "_keys", keys)
    monkeypatch.setattr(circuits, "BLOCK", 100)
    assert kth_highest(lambda: iter(layers), [1, 60, 371]) == whole
    assert max(sizes) == 100
    assert sum(sizes) == 2 * (359 + 12)


def test_scores_are_read_once_for_the_thresholds_of_all_shares() -> None:
    reads = Counter[str]()

    def read(name: str) -> Tensor:
        reads[name] += 1
        return torch.randn(6, 5, generator=torch.Generator().manual_seed(len(name)))

    scores = ScoreSet(LazyScores({"a": (6, 5), "bb": (6, 5)}, read))
    contest = Contest(Importance("some", scores), ["a", "bb"], "global", [0.1, 0.5, 0.9])
    assert not reads, "nothing is read before it is needed"
    kept = {share: sum(int(stays.sum()) for _, stays in contest.keep(share)) for share in (0.5, 0.1, 0.9)}
    assert kept == {0.1: 6, 0.5: 30, 0.9: 54}
    assert reads == {"a": 2 + 3, "bb": 2 + 3}, "twice for all thresholds, and once for what stays of each share"


@pytest.mark.parametrize(("scope", "share"), itertools.product(["global", "row"], [0.001, 0.1, 0.5, 1.0]))
def test_masks_leave_the_share(scope: Scope, share: float) -> None:
    model = tiny_llama()
    layers = get_family("llama").block_linears(model)
    generator = torch.Generator().manual_seed(0)
    # Few different values: ties are plenty.
    scores = {name: torch.randint(-3, 4, layer.weight.shape, generator=generator).float()  # type: ignore[arg-type]
              for name, layer in layers.items()}  # fmt: skip
    contest = Contest(Importance("some", ScoreSet(scores)), list(layers), scope, [share, 0.3])
    masks = dict(contest.masks(layers, share))
    assert list(masks) == list(layers)
    if scope == "row":
        for name, mask in masks.items():
            assert set((~mask).sum(1).tolist()) == {num_kept(share, mask.shape[1])}
            kept, gone = (torch.where(side, scores[name], bad).amin(1) if side is not mask else
                          torch.where(side, scores[name], bad).amax(1)
                          for side, bad in ((~mask, 9.0), (mask, -9.0)))  # fmt: skip
            assert bool((kept >= gone).all())
        return
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == num_kept(share, total)
    lowest_kept = min(scores[name][~mask].min().item() for name, mask in masks.items() if not mask.all())
    highest_gone = max((scores[name][mask].max().item() for name, mask in masks.items() if mask.any()), default=-9.0)
    assert lowest_kept >= highest_gone


def test_shapes_of_the_tiny_model_are_those_meant() -> None:
    assert len(keep_neurons(Importance("a", neuron_set(*[[0.0] * NEURONS] * LAYERS)), 1.0)[0]) == NEURONS


@pytest.mark.parametrize("scope", ["global", "row"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.3, 1.0])
def test_the_share_that_really_stays_is_what_is_kept(scope: Scope, share: float) -> None:
    """A row of four keeps one at the least, a fourth of it."""
    scores = {"wide": torch.rand(3, 20), "narrow": torch.rand(5, 4)}
    contest = Contest(Importance("some", ScoreSet(scores)), ["wide", "narrow"], scope, [share])
    kept = torch.cat([stays.flatten() for _, stays in contest.keep(share)])
    assert contest.share_kept(share) == pytest.approx(float(kept.double().mean()))
