"""What is explained: one scalar per sample, read from the logits at its last real token (method.md, section 1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

Explain = Literal["logit", "logprob"]
ARGMAX = "last_token_argmax"
NEXT_TOKEN = "next_token"
NONE = -1


@dataclass(frozen=True)
class Target:
    """The scalar explained.

    Attributes:
        token: Token id that is explained; None: each sample's own, or the model's own prediction.
        against: Token id that it is contrasted with, or None.
        next_token: Whether each sample says itself what follows it, and is explained.
        explain: "logit"; or "logprob": the logit minus logsumexp, which does not explain what moves all logits alike.
    """

    token: int | None = None
    against: int | None = None
    next_token: bool = False
    explain: Explain = "logit"

    def __str__(self) -> str:
        if self.next_token:
            return NEXT_TOKEN
        if self.token is None:
            return ARGMAX
        return f"token:{self.token}" if self.against is None else f"contrast:{self.token}:{self.against}"

    def select(
        self, logits: Tensor, targets: Tensor | None = None, against: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The target of each sample.

        Args:
            logits: Logits at the last real token.
            targets: With `next_token`, each sample's token; -1 is read as 0, see `missing`.
            against: With `next_token`, the token that each is contrasted with; -1 for none.

        Returns:
            The targets in float32 (float64 where the logits are), and the explained token ids.

        Raises:
            ValueError: `next_token` without `targets`.

        Shape: logits (B, V); targets, against and both results (B,).
        Units: logits; nats with "logprob".
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ids, others = self._ids(logits, targets, against)
        if self.explain == "logprob":
            logits = logits.log_softmax(-1)
        values = logits.gather(1, ids[:, None])[:, 0]
        if others is not None:
            values = values - logits.gather(1, others.clamp(min=0)[:, None])[:, 0] * (others != NONE)
        return values, ids

    def missing(self, targets: Tensor | None, weights: Tensor | None = None) -> Tensor | None:
        """Which real samples name no token, though their own is explained; None where no sample's own is.

        Args:
            targets: With `next_token`, each sample's token; -1 for none.
            weights: 0 for a sample that only keeps ranks in step, and needs no token; default none is.

        Shape: targets, weights and the result (B,).
        """
        if not self.next_token or targets is None:
            return None
        return targets < 0 if weights is None else (targets < 0) & (weights.to(targets.device) > 0)

    def _ids(self, logits: Tensor, targets: Tensor | None, against: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens explained, and those that they are contrasted with."""
        if self.next_token:
            if targets is None:
                raise ValueError("`target: next_token` needs the token that follows each sample. Give `targets`.")
            others = None if against is None else against.to(logits.device)
            # A sample that only fills a batch up has none; any other is refused by `Attribution.step`.
            return targets.to(logits.device).clamp(min=0), others
        if self.token is None:
            return lowest_argmax(logits), None
        ids = torch.full((logits.shape[0],), self.token, device=logits.device)
        return ids, None if self.against is None else torch.full_like(ids, self.against)


def lowest_argmax(logits: Tensor) -> Tensor:
    """Argmax over the last dimension; ties go to the lowest index, which torch.argmax does not promise.

    Shape: logits (B, V); returns (B,) int64.
    """
    size = logits.shape[-1]
    ids = torch.arange(size, device=logits.device)
    # A NaN wins, as in torch.argmax: its gradient reaches the finite check, where another entry's would hide it.
    best = (logits == logits.amax(-1, keepdim=True)) | logits.isnan()
    return torch.where(best, ids, size).amin(-1)


def parse_target(target: str | int | Sequence[int] | Target, vocab_size: int, explain: Explain | None = None) -> Target:
    """Read a target as a user writes it.

    Args:
        target: "last_token_argmax"; "next_token"; a token id or "token:ID"; a pair of ids or "contrast:ID:ID".
        vocab_size: Number of logits, to check ids against.
        explain: "logit" or "logprob"; None for the target's own.

    Raises:
        ValueError: Not one of these forms, or an id outside the vocabulary.
    """
    parsed = _read(target)
    parsed = parsed if explain is None else replace(parsed, explain=explain)
    if parsed.explain not in get_args(Explain):
        raise ValueError(f"`explain` must be one of {get_args(Explain)}, got {parsed.explain!r}. Set `model.explain`.")
    for token in (parsed.token, parsed.against):
        if token is not None and not 0 <= token < vocab_size:
            raise ValueError(f"`target` ids must be between 0 and {vocab_size - 1}, got {token}. Set `model.target`.")
    return parsed


def _read(target: str | int | Sequence[int] | Target) -> Target:
    if isinstance(target, Target):
        return target
    if target == ARGMAX:
        return Target()
    if target == NEXT_TOKEN:
        return Target(next_token=True)
    match = re.fullmatch(r"token:(-?\d+)|contrast:(-?\d+):(-?\d+)", target) if isinstance(target, str) else None
    if match:
        ids = [int(token) for token in match.groups() if token is not None]
    else:
        ids = [target] if isinstance(target, int) else list(target) if isinstance(target, list | tuple) else []
    if len(ids) not in (1, 2) or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise ValueError(
            f"`target` must be {ARGMAX!r}, {NEXT_TOKEN!r}, 'token:ID' or 'contrast:ID:ID' (or an id, or a pair of "
            f"ids), got {target!r}. Set `model.target`."
        )
    return Target(ids[0], ids[1] if len(ids) == 2 else None)
