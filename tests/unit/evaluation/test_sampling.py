"""Sampling: noise against SplitMix64 in plain Python and Gumbel-max's promise, the nucleus against transformers'."""

import itertools
import math

import pytest
import torch
from transformers import TopPLogitsWarper

from sparc3_lightning.evaluation.sampling import _LIKELIEST, _mix, _signed, gumbel_noise, noise_key, nucleus, sample

WORD = 2**64


def splitmix64(state: int) -> int:
    """The published algorithm on unsigned integers: output of the generator in `state`."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def test_the_mixer_is_splitmix64() -> None:
    """First outputs for seed 1234567, as other implementations publish them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    gamma = 0x9E3779B97F4A7C15
    states = torch.tensor([_signed(1234567 + n * gamma) for n in range(1, 5)])
    assert [value % WORD for value in _mix(states).tolist()] == known
    assert [splitmix64((1234567 + n * gamma) % WORD) for n in range(4)] == known


def test_noise_is_the_slow_reference() -> None:
    key, step, gamma = noise_key(3, "prompt", 2), 5, 0x9E3779B97F4A7C15
    state = splitmix64((key + (step - 1) * gamma) % WORD)
    expected = []
    for token in range(20):
        uniform = ((splitmix64((state + token * gamma) % WORD) >> 12) + 0.5) * 2.0**-52
        expected.append(-math.log(-math.log(uniform)))
    assert gumbel_noise(torch.tensor([key]), step, torch.arange(20))[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_noise_does_not_depend_on_the_batch_or_the_vocabulary() -> None:
    keys = torch.tensor([noise_key(0, str(n), 0) for n in range(5)])
    batch = gumbel_noise(keys, 3, torch.arange(100))
    assert torch.equal(batch[2:3, :40], gumbel_noise(keys[2:3], 3, torch.arange(40)))


def test_every_part_of_the_key_counts() -> None:
    keys = [noise_key(*parts) for parts in itertools.product([0, 1, 11], ["a", "b", "1/a", ""], [0, 1, 11])]
    assert len(set(keys)) == 36
    streams = gumbel_noise(torch.tensor(keys), 0, torch.arange(50))
    assert not torch.equal(streams[0], gumbel_noise(torch.tensor(keys[:1]), 1, torch.arange(50))[0])
    correlation = torch.corrcoef(streams) - torch.eye(36)
    assert correlation.abs().max() < 0.6


def test_noise_is_gumbel() -> None:
    keys = torch.tensor([noise_key(0, "p", j) for j in range(20)])
    noise = torch.cat([gumbel_noise(keys, step, torch.arange(1000)) for step in range(5)])
    assert noise.dtype == torch.float64
    assert noise.isfinite().all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.05)
    uniform = torch.exp(-torch.exp(-noise.flatten())).sort().values
    distance = (uniform - (torch.arange(len(uniform)) + 0.5) / len(uniform)).abs().max()
    assert distance < 1.95 / math.sqrt(len(uniform))  # Kolmogorov-Smirnov at 0.1 %


def test_the_extreme_bits_are_finite() -> None:
    top = (torch.tensor([2**52 - 1]).double() + 0.5) * 2.0**-52
    assert 0 < float(-torch.log(-torch.log(top))) < 40


def test_argmax_of_logits_and_noise_samples_their_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    keys = torch.tensor([noise_key(0, str(n), 0) for n in range(20_000)])
    drawn = (logits.double() + gumbel_noise(keys, 7, torch.arange(5))).argmax(dim=1)
    share = torch.bincount(drawn, minlength=5) / len(keys)
    torch.testing.assert_close(share, logits.softmax(0), atol=0.015, rtol=0)


@pytest.mark.parametrize("sharpness", [0.01, 1.0, 8.0], ids=["flat", "usual", "sharp"])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 1.0])
def test_the_nucleus_is_transformers_own(sharpness: float, top_p: float) -> None:
    """Of a vocabulary of which a flat row needs more tokens than are looked at first."""
    torch.manual_seed(0)
    logits = sharpness * torch.randn(6, 4 * _LIKELIEST, dtype=torch.float64)
    values, tokens = nucleus(logits, top_p)
    found = torch.full_like(logits, -torch.inf).scatter(1, tokens, values)
    expected = TopPLogitsWarper(top_p)(None, logits) if top_p < 1 else logits
    assert torch.equal(found, expected)


def test_a_draw_is_the_one_from_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    logits, keys = torch.randn(50, 2000, dtype=torch.float64), torch.arange(50)
    warped = TopPLogitsWarper(0.8)(None, logits)
    expected = (warped + gumbel_noise(keys, 4, torch.arange(2000))).argmax(1)
    assert torch.equal(sample(logits, 0.8, keys, 4), expected)
    assert not torch.equal(sample(logits, 0.8, keys, 5), expected)
