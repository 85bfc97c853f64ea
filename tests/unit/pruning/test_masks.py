"""Masks: exactly as many of each row, those of the reference, ties to the lower index, clear refusals."""

import pytest
import torch

from sparc3_lightning.pruning.masks import Pattern, check_sparsity, lowest_per_group, mask_of, num_removed
from sparc3_lightning.scoring.weights import lowest_per_row
from tests.reference.compression import group_mask, row_mask

SCORES = torch.rand(7, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TIED = (4 * SCORES).floor()


@pytest.mark.parametrize("scores", [SCORES, TIED], ids=["all differ", "ties"])
@pytest.mark.parametrize("sparsity", [0.05, 0.1, 0.3, 0.5, 0.7, 0.99])
def test_a_share_of_each_row(scores: torch.Tensor, sparsity: float) -> None:
    mask = mask_of(scores, sparsity)
    assert mask.tolist() == row_mask(scores.tolist(), sparsity)
    assert mask.sum(1).tolist() == [num_removed(24, sparsity)] * 7


@pytest.mark.parametrize("scores", [SCORES, TIED], ids=["all differ", "ties"])
@pytest.mark.parametrize("text", ["2:4", "1:4", "3:4", "4:8", "5:12"])
def test_n_of_every_m_stay(scores: torch.Tensor, text: str) -> None:
    pattern = Pattern.parse(text)
    mask = mask_of(scores, pattern)
    assert mask.tolist() == group_mask(scores.tolist(), pattern.kept, pattern.group)
    kept = (~mask).reshape(-1, pattern.group).sum(1)
    assert kept.unique().tolist() == [pattern.kept]
    assert mask.sum(1).tolist() == [num_removed(24, pattern)] * 7


def test_no_rows_no_mask() -> None:
    """A rank may hold no row of a layer."""
    assert lowest_per_group(torch.empty(0, 8), Pattern(2, 4)).shape == (0, 8)
    assert lowest_per_row(torch.empty(0, 8), 0.5).shape == (0, 8)


@pytest.mark.parametrize("text", ["", "2", "2:2", "4:2", "0:4", "2:4:8", "a:b", "-1:4"])
def test_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"`pattern` must be N:M .*Set `CompressionCallback.init_args.pattern`"):
        Pattern.parse(text)


@pytest.mark.parametrize("sparsity", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_no_sparsity(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"above 0 and below 1, got .*`CompressionCallback.init_args.sparsities`"):
        check_sparsity(sparsity)


def test_rows_that_nothing_goes_of_and_rows_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"of 0.1 removes nothing from rows of 9 weights \(model.up\)"):
        num_removed(9, 0.1, "model.up")
    with pytest.raises(ValueError, match=r"2:4 needs rows whose length is a multiple of 4, got 18 \(model.up\)"):
        num_removed(18, Pattern(2, 4), "model.up")
    with pytest.raises(ValueError, match="multiple of 4, got 18"):
        lowest_per_group(torch.rand(3, 18), Pattern(2, 4))
