"""Windows, loss and figure, against loops written from the protocols' sources."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.text import Perplexity

from sparc3_lightning.metrics import perplexity as room
from sparc3_lightning.metrics.perplexity import (
    Window,
    WindowPerplexity,
    join_rows,
    token_losses,
    window_losses,
    windows,
)


def documented_sliding(num_tokens: int, window: int, stride: int) -> list[tuple[int, int, list[int]]]:
    """Hugging Face's documented loop, slow: each window's start, stop and the positions whose loss it counts."""
    found, previous_stop = [], 0
    for start in range(0, num_tokens, stride):
        stop = min(start + window, num_tokens)
        new = range(previous_stop, stop)
        found.append((start, stop, [position for position in new if position > start]))
        previous_stop = stop
        if stop == num_tokens:
            break
    return found


@pytest.mark.parametrize("num_tokens", [2, 7, 16, 17, 50, 64])
@pytest.mark.parametrize(("window", "stride"), [(16, 4), (16, 15), (8, 1), (5, 3)])
def test_sliding_is_the_documented_loop(num_tokens: int, window: int, stride: int) -> None:
    ours = [
        (item.start, item.stop, list(range(item.stop - item.num_scored, item.stop)))
        for item in windows(num_tokens, "sliding", window, stride)
    ]
    assert ours == documented_sliding(num_tokens, window, stride)
    counted = [position for _, _, positions in ours for position in positions]
    assert counted == list(range(1, num_tokens))


def test_disjoint_drops_the_tail_and_never_scores_a_first_token() -> None:
    cut = [Window(0, 16, 15), Window(16, 32, 15)]
    assert windows(35, "disjoint", 16) == cut
    assert windows(35, "disjoint", 16, 16) == cut, "a result says so, and is cut again from what it says"


def test_stride_is_a_quarter_of_the_window() -> None:
    assert [item.start for item in windows(40, "sliding", 16)] == [0, 4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize(
    ("num_tokens", "protocol", "window", "stride"),
    [(15, "disjoint", 16, None), (1, "sliding", 16, None), (50, "sliding", 1, None), (50, "sliding", 16, 16),
     (50, "wikitext", 16, None)],
)  # fmt: skip
def test_impossible_windows_are_refused(num_tokens: int, protocol: str, window: int, stride: int | None) -> None:
    with pytest.raises(ValueError, match=r"Set|Give"):
        windows(num_tokens, protocol, window, stride)


def test_only_sliding_drops_blank_rows() -> None:
    rows = ["", " a \n", "  \n", "b"]
    assert join_rows(rows, "sliding") == " a \n\n\nb"
    assert join_rows(rows, "disjoint") == "\n\n a \n\n\n  \n\n\nb"


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 11, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(11, (3, 9), generator=generator)


def count(metric: WindowPerplexity, logits: Tensor, ids: Tensor, num_scored: int) -> None:
    metric.update(window_losses(logits, ids, num_scored), num_scored)


def naive(logits: Tensor, ids: Tensor, num_scored: int) -> float:
    losses = [
        -math.log(math.exp(logits[b, t - 1, ids[b, t]]) / sum(math.exp(v) for v in logits[b, t - 1]))
        for b in range(ids.shape[0])
        for t in range(ids.shape[1] - num_scored, ids.shape[1])
    ]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("num_scored", [1, 3, 8])
def test_figure_is_the_naive_one(num_scored: int) -> None:
    logits, ids = example(torch.float64)
    metric = WindowPerplexity()
    count(metric, logits[:2], ids[:2], num_scored)
    count(metric, logits[2:], ids[2:], num_scored)
    assert float(metric.compute()) == pytest.approx(naive(logits, ids, num_scored), rel=1e-12)


def test_losses_are_those_of_each_window_alone() -> None:
    logits, ids = example(torch.float64)
    alone = [math.log(naive(logits[b : b + 1], ids[b : b + 1], 3)) * 3 for b in range(3)]
    losses = window_losses(logits, ids, 3)
    assert (losses.dtype, losses.shape) == (torch.float64, (3,))
    assert losses.tolist() == pytest.approx(alone, rel=1e-12)


def test_logits_of_the_last_positions_are_enough() -> None:
    logits, ids = example()
    full, cut = WindowPerplexity(), WindowPerplexity()
    count(full, logits, ids, 3)
    count(cut, logits[:, -4:], ids, 3)
    assert full.compute() == cut.compute()


def test_agrees_with_torchmetrics_only_when_that_is_shifted() -> None:  # trap 18
    logits, ids = example()
    ours, shifted, straight = WindowPerplexity(), Perplexity(), Perplexity()
    count(ours, logits, ids, ids.shape[1] - 1)
    shifted.update(logits[:, :-1], ids[:, 1:])
    straight.update(logits, ids)
    assert float(ours.compute()) == pytest.approx(float(shifted.compute()), rel=1e-5)
    assert float(ours.compute()) != pytest.approx(float(straight.compute()), rel=1e-2)


def test_a_loss_of_200_is_finite() -> None:  # trap 18
    logits = torch.zeros(1, 2, 4)
    logits[0, 0, 0] = 200.0
    ids = torch.tensor([[0, 1]])
    ours, theirs = WindowPerplexity(), Perplexity()
    count(ours, logits, ids, 1)
    theirs.update(logits[:, :-1], ids[:, 1:])
    assert math.log(float(ours.compute())) == pytest.approx(200.0, rel=1e-6)
    assert math.isinf(float(theirs.compute()))


def test_loss_is_taken_in_chunks_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:  # trap 18
    logits, ids = example(torch.bfloat16)
    seen: list[tuple[torch.dtype, int]] = []
    real = F.cross_entropy

    def spy(chunk: Tensor, targets: Tensor, reduction: str) -> Tensor:
        seen.append((chunk.dtype, len(chunk)))
        return real(chunk, targets, reduction=reduction)

    monkeypatch.setattr(room, "_CHUNK_ELEMENTS", 11 * 4)
    monkeypatch.setattr(room.F, "cross_entropy", spy)
    total = token_losses(logits.flatten(0, 1), ids.flatten()).sum()
    assert seen == [(torch.float32, 4)] * 6 + [(torch.float32, 3)]
    expected = real(logits.flatten(0, 1).double(), ids.flatten(), reduction="sum")
    assert float(total) == pytest.approx(float(expected), rel=1e-6)


def test_states_count_beyond_bfloat16_and_float32() -> None:  # trap 6
    metric = WindowPerplexity().bfloat16()
    assert (metric.total.dtype, metric.count.dtype) == (torch.float64, torch.int64)
    logits, ids = torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64)
    for _ in range(400):
        count(metric, logits, ids, 1)
    assert int(metric.count) == 400
    assert float(metric.compute()) == pytest.approx(4.0, rel=1e-7)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_logits_are_an_error(broken: float) -> None:
    logits, ids = example()
    logits[1, 2, 3] = broken
    metric = WindowPerplexity()
    count(metric, logits, ids, 8)
    with pytest.raises(ValueError, match="must be finite"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one scored token"):
        WindowPerplexity().compute()


def test_no_file_of_the_room_imports_lightning() -> None:
    for file in Path(room.__file__).parent.glob("*.py"):
        assert "import lightning" not in file.read_text(encoding="utf-8").replace("from lightning", "import lightning")
