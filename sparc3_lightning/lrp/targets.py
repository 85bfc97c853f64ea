"""What is explained: one scalar per sample, read from the logits at its last real token (method.md, section 1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ARGMAX = "last_token_argmax"


@dataclass(frozen=True)
class Target:
    """The scalar explained.

    Attributes:
        token: Token id whose logit is explained; None: the model's own prediction.
        against: Token id whose logit is subtracted (contrast), or None.
    """

    token: int | None = None
    against: int | None = None

    def __str__(self) -> str:
        if self.token is None:
            return ARGMAX
        return f"token:{self.token}" if self.against is None else f"contrast:{self.token}:{self.against}"

    def select(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The target of each sample.

        Args:
            logits: Logits at the last real token.

        Returns:
            The targets in float32 (float64 where the logits are), and the explained token ids.

        Shape: logits (B, V); both results (B,).
        Units: logits.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.token is None:
            ids = lowest_argmax(logits)
        else:
            ids = torch.full((logits.shape[0],), self.token, device=logits.device)
        values = logits.gather(1, ids[:, None])[:, 0]
        if self.against is not None:
            values = values - logits[:, self.against]
        return values, ids


def lowest_argmax(logits: Tensor) -> Tensor:
    """Argmax over the last dimension; ties go to the lowest index, which torch.argmax does not promise.

    Shape: logits (B, V); returns (B,) int64.
    """
    size = logits.shape[-1]
    ids = torch.arange(size, device=logits.device)
    # A NaN wins, as in torch.argmax: its gradient reaches the finite check, where another entry's would hide it.
    best = (logits == logits.amax(-1, keepdim=True)) | logits.isnan()
    return torch.where(best, ids, size).amin(-1)


def parse_target(target: str | int | Sequence[int] | Target, vocab_size: int) -> Target:
    """Read a target as a user writes it.

    Args:
        target: "last_token_argmax"; a token id or "token:ID"; a pair of ids or "contrast:ID:ID".
        vocab_size: Number of logits, to check ids against.

    Raises:
        ValueError: Not one of these forms, or an id outside the vocabulary.
    """
    parsed = _read(target)
    for token in (parsed.token, parsed.against):
        if token is not None and not 0 <= token < vocab_size:
            raise ValueError(f"`target` ids must be between 0 and {vocab_size - 1}, got {token}. Set `model.target`.")
    return parsed


def _read(target: str | int | Sequence[int] | Target) -> Target:
    if isinstance(target, Target):
        return target
    if target == ARGMAX:
        return Target()
    match = re.fullmatch(r"token:(-?\d+)|contrast:(-?\d+):(-?\d+)", target) if isinstance(target, str) else None
    if match:
        ids = [int(token) for token in match.groups() if token is not None]
    else:
        ids = [target] if isinstance(target, int) else list(target) if isinstance(target, list | tuple) else []
    if len(ids) not in (1, 2) or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise ValueError(
            f"`target` must be {ARGMAX!r}, 'token:ID' or 'contrast:ID:ID' (or an id, or a pair of ids), got "
            f"{target!r}. Set `model.target`."
        )
    return Target(*ids)
