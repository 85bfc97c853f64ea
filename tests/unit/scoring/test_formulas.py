"""The arithmetic of the baselines, by hand and by brute force."""

import pytest
import torch

from sparc3_lightning.scoring.activations import auroc, wanda_scores
from sparc3_lightning.scoring.weights import lowest_per_row, magnitude_scores, random_scores


def test_wanda_by_hand() -> None:
    weight, squared = torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([9.0, 4.0], dtype=torch.float64)
    assert wanda_scores(weight, squared, by_neuron=False).tolist() == [[3.0, 4.0], [0.0, 6.0]]
    assert wanda_scores(weight, squared, by_neuron=True).tolist() == [7.0, 6.0]
    assert magnitude_scores(weight, by_neuron=False).tolist() == [[1.0, 2.0], [0.0, 3.0]]
    assert magnitude_scores(weight, by_neuron=True).tolist() == [3.0, 3.0]


def test_half_precision_weights_give_float32_scores() -> None:
    weight = torch.full((1, 4096), 1.0, dtype=torch.bfloat16)
    norms = torch.ones(4096, dtype=torch.float64)
    for score in (magnitude_scores(weight, by_neuron=True), wanda_scores(weight, norms, by_neuron=True)):
        assert score.dtype == torch.float32
        assert score.tolist() == [4096.0]


def test_auroc_counts_pairs_and_half_of_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    behaviour = torch.randint(0, 6, (9, 5), generator=generator).float()
    general = torch.randint(0, 6, (14, 5), generator=generator).float() - 1
    pairs = behaviour[:, None] - general[None]
    brute = ((pairs > 0).double() + 0.5 * (pairs == 0).double()).mean((0, 1))
    assert (brute != 0.5).all()
    torch.testing.assert_close(auroc(behaviour, general), brute, rtol=0, atol=1e-15)


def test_auroc_of_what_separates_and_of_what_does_not() -> None:
    general, behaviour = torch.tensor([[0.0, 5.0, 1.0]] * 3), torch.tensor([[2.0, 2.0, 1.0]] * 4)
    assert auroc(behaviour, general).tolist() == [1.0, 0.0, 0.5]


def test_auroc_ties_what_rounding_parts() -> None:
    general, behaviour = torch.tensor([[100.0], [0.0]]), torch.tensor([[100.0 + 1e-4], [1e-3]])
    assert auroc(behaviour, general).tolist() == [0.75]
    assert auroc(behaviour, general, ties=1e-4).tolist() == [0.5]


def test_random_is_seeded() -> None:
    shapes = {"a": (5,), "b": (2, 3)}
    first, again, other = random_scores(shapes, 1), random_scores(shapes, 1), random_scores(shapes, 2)
    assert {name: tuple(score.shape) for name, score in first.items()} == shapes
    assert all(torch.equal(first[name], again[name]) for name in shapes)
    assert not torch.equal(first["a"], other["a"])


def test_lowest_per_row() -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0, 1.0], [0.0, 5.0, 2.0, 4.0]])
    # Ties go to the lower index; each row gives as many.
    assert lowest_per_row(scores, 0.5).tolist() == [[False, True, True, False], [True, False, True, False]]
    assert lowest_per_row(scores, 0.7).sum(1).tolist() == [2, 2]
    assert not lowest_per_row(scores, 0.0).any()
    with pytest.raises(ValueError, match=r"`sparsity` must be between 0 and 1, got 1\.5"):
        lowest_per_row(scores, 1.5)
