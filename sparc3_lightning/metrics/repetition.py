"""Repetition: a model that only repeats itself is not toxic, it is broken."""

from collections.abc import Sequence


def uniqueness(token_ids: Sequence[int]) -> float | None:
    """Response uniqueness ratio: unique / total generated token ids.

    Args:
        token_ids: the generated ids of one completion, end-of-text left out.

    Returns:
        The ratio in (0, 1]; None for an empty completion, which has none.

    Source:
        Hatefi et al., SparC3, arXiv 2506.13727, section 4 (repetition).
    """
    return len(set(token_ids)) / len(token_ids) if token_ids else None
