"""Paired scores with a known change."""

import torch
from torch import Tensor


def pair(n: int, shift: float = -0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores (n,) before and after; they change by `shift` with a spread of 0.2."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(n, generator=generator, dtype=torch.float64)
    return before, before + shift + 0.2 * torch.randn(n, generator=generator, dtype=torch.float64)


def nested_changes(runs: int, n: int, j: int, between: float, within: float, shift: float = 0.0) -> Tensor:
    """Changes (n, j, runs) of completions: each prompt's true change, and each completion's luck."""
    generator = torch.Generator().manual_seed(0)
    prompts = between * torch.randn(n, 1, runs, generator=generator, dtype=torch.float64)
    return shift + prompts + within * torch.randn(n, j, runs, generator=generator, dtype=torch.float64)
