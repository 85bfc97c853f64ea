"""Which reference sets are general, and which is the behaviour's."""

from collections.abc import Sequence
from fnmatch import fnmatchcase


def match_general(names: Sequence[str], general: Sequence[str], behaviour: str) -> list[str]:
    """Names of the general sets that the patterns match, in the order of `names`.

    Raises:
        ValueError: The behaviour is no set, or a pattern matches none, or the behaviour's.
    """
    if behaviour not in names:
        raise ValueError(
            f"`behaviour` must be one of the reference sets {list(names)}, got {behaviour!r}. "
            "Set `PruningCallback.init_args.behaviour` or `data.reference_sets`."
        )
    for pattern in general:
        if not any(fnmatchcase(name, pattern) and name != behaviour for name in names):
            raise ValueError(
                f"`general` must match reference sets other than {behaviour!r}, got {pattern!r}, which matches none of "
                f"{list(names)}. Set `PruningCallback.init_args.general` or `data.reference_sets`."
            )
    matched = [name for name in names if any(fnmatchcase(name, pattern) for pattern in general)]
    return [name for name in matched if name != behaviour]
