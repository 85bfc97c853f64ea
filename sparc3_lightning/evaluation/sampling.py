"""Which token comes next: the nucleus, and noise that pairs before and after.

Before and after pruning must meet the same luck, whatever the batch, the order and the number of processes. The noise
of token v at step t of completion j of a prompt is therefore output number v of a SplitMix64 generator keyed by
(seed, prompt id, j, t). Being counted, not drawn in turn, it is made where it is asked for, on any device.
"""

import hashlib

import torch
from torch import Tensor

CHOICE_SEED = int.from_bytes(hashlib.sha256(b"choice of prompts by responses").digest()[:8], "little", signed=True)
"""Seed of the completions that prompts are chosen by: no evaluation's, or prompts would be chosen by their outcome."""
SCREEN_SEED = int.from_bytes(hashlib.sha256(b"screen by responses").digest()[:8], "little", signed=True)
"""Seed of the completions that neurons are screened by: no evaluation's, nor that by which prompts were chosen. These
were lucky with it, and would seem to get better by anything that changes the luck."""

_LIKELIEST = 512
"""Tokens among which a nucleus is looked for first."""


def sample(logits: Tensor, top_p: float, keys: Tensor, step: int) -> Tensor:
    """Draw a token a row from its nucleus, with the row's own noise.

    Args:
        logits: Divided by the temperature.
        top_p: See `nucleus`.
        keys: A completion's each; see `noise_key`.
        step: Number of the token about to be generated.

    Shape:
        logits (B, V), keys (B,) int64, result (B,) int64.
    """
    values, tokens = nucleus(logits, top_p)
    drawn = (values.double() + gumbel_noise(keys, step, tokens)).argmax(1, keepdim=True)
    return tokens.gather(1, drawn)[:, 0]


def nucleus(logits: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens: as many as it takes to reach the probability.

    Sorting a vocabulary costs more than a small model's forward pass; the few hundred likeliest nearly always do.

    Args:
        logits: Of every token.
        top_p: A token belongs to it where those before it hold less than this; at 1 every token does.

    Returns:
        Logits, likeliest first and -inf outside the nucleus, and their tokens.

    Shape:
        logits (B, V), results (B, K).

    Source:
        Holtzman et al., The curious case of neural text degeneration, 2020.
    """
    vocab_size = logits.shape[1]
    if top_p == 1:
        return logits, torch.arange(vocab_size, device=logits.device).expand_as(logits)
    total, num = logits.logsumexp(1, keepdim=True), min(_LIKELIEST, vocab_size)
    while True:
        values, tokens = logits.topk(num)
        reached = (values - total).exp().cumsum(1)
        if num == vocab_size or bool((reached[:, -1] >= top_p).all()):
            before = reached.roll(1, 1)
            before[:, 0] = 0
            return values.masked_fill(before >= top_p, -torch.inf), tokens
        num = min(8 * num, vocab_size)


def noise_key(seed: int, prompt_id: str, completion: int) -> int:
    """The 64-bit key of one completion's noise, as a signed integer.

    Args:
        seed: Of the run.
        prompt_id: The prompt's id in its data set.
        completion: Number j of the completion.
    """
    # The id comes last: it may hold any character, the numbers before it cannot.
    digest = hashlib.sha256(f"{seed}/{completion}/{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def gumbel_noise(keys: Tensor, step: int, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise for one decoding step.

    Args:
        keys: From `noise_key`, a completion each.
        step: Number of the token about to be generated.
        tokens: Of which.

    Returns:
        Noise: adding it to logits and taking the argmax samples from their softmax.

    Shape:
        keys (B,) int64, tokens (B, K) or (K,) int64, result (B, K) float64.

    Source:
        Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014 (SplitMix64); Maddison et al.,
        A* sampling, 2014 (Gumbel-max).
    """
    states = _mix(keys + _signed(step * _GAMMA)).unsqueeze(1)
    bits = _shift(_mix(states + (tokens + 1) * _GAMMA), 12)
    # Half a step off the grid of 2^-52: never 0 and never 1, so both logarithms are finite.
    uniform = (bits.double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform))


def _signed(number: int) -> int:
    """A number modulo 2^64, as the int64 with the same bits."""
    return (number + 2**63) % 2**64 - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's output function; int64 arithmetic wraps, as the unsigned original does."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
