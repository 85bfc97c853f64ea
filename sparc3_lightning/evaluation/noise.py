"""Gumbel noise that depends on what it is for, and on nothing else.

Before and after pruning must meet the same luck, whatever the batch, the order and the number of processes. The noise
of token v at step t of completion j of a prompt is therefore output number v of a SplitMix64 generator keyed by
(seed, prompt id, j, t). Being counted, not drawn in turn, it is one vectorised expression on any device.
"""

import hashlib

import torch
from torch import Tensor


def _signed(number: int) -> int:
    """A number modulo 2^64, as the int64 with the same bits."""
    return (number + 2**63) % 2**64 - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


CHOICE_SEED = int.from_bytes(hashlib.sha256(b"choice of prompts by responses").digest()[:8], "little", signed=True)
"""Seed of the completions that prompts are chosen by: no evaluation's, or prompts would be chosen by their outcome."""


def noise_key(seed: int, prompt_id: str, completion: int) -> int:
    """The 64-bit key of one completion's noise, as a signed integer.

    Args:
        seed: of the run.
        prompt_id: the prompt's id in its data set.
        completion: number j of the completion.
    """
    # The id comes last: it may hold any character, the numbers before it cannot.
    digest = hashlib.sha256(f"{seed}/{completion}/{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def gumbel_noise(keys: Tensor, step: int, vocab_size: int) -> Tensor:
    """Standard Gumbel noise for one decoding step.

    Args:
        keys: int64, from `noise_key`, a completion each.
        step: number of the token about to be generated.
        vocab_size: V.

    Returns:
        float64 noise: adding it to logits and taking the argmax samples from their softmax.

    Shape:
        keys (B,), result (B, V).

    Source:
        Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014 (SplitMix64); Maddison et al.,
        A* sampling, 2014 (Gumbel-max).
    """
    states = _mix(keys + _signed(step * _GAMMA)).unsqueeze(1)
    tokens = torch.arange(1, vocab_size + 1, dtype=torch.int64, device=keys.device)
    bits = _shift(_mix(states + tokens * _GAMMA), 12)
    # Half a step off the grid of 2^-52: never 0 and never 1, so both logarithms are finite.
    uniform = (bits.double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform))


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's output function; int64 arithmetic wraps, as the unsigned original does."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
