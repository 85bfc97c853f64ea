"""Which reference sets are general, and which is the behaviour's."""

import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations


def match_general(
    names: Sequence[str], general: Sequence[str], behaviour: str | None, callback: str = "PruningCallback"
) -> list[str]:
    """Names of the general sets that the patterns match, in the order of `names`.

    Args:
        names: Of all reference sets.
        general: Names or patterns of the general ones.
        behaviour: Name of the behaviour's; None where nothing is about one.
        callback: Whose keys they are.

    Raises:
        ValueError: The behaviour is no set, or a pattern matches none, or the behaviour's.
    """
    if behaviour is not None and behaviour not in names:
        raise ValueError(
            f"`behaviour` must be one of the reference sets {list(names)}, got {behaviour!r}. "
            f"Set `{callback}.init_args.behaviour` or `data.reference_sets`."
        )
    for pattern in general:
        if not any(fnmatchcase(name, pattern) and name != behaviour for name in names):
            but = "" if behaviour is None else f" other than {behaviour!r}"
            raise ValueError(
                f"`general` must match reference sets{but}, got {pattern!r}, which matches none of "
                f"{list(names)}. Set `{callback}.init_args.general` or `data.reference_sets`."
            )
    matched = [name for name in names if any(fnmatchcase(name, pattern) for pattern in general)]
    return [name for name in matched if name != behaviour]


def warn_of_shared_samples(fingerprints: Mapping[str, Sequence[str]]) -> None:
    """Warn where two of the sets hold the same texts: then seeds agree, or sets differ, less than they seem to.

    Args:
        fingerprints: Of each set's texts, by its name.
    """
    for (first, texts), (second, others) in combinations(fingerprints.items(), 2):
        if num_shared := len(set(texts) & set(others)):
            warnings.warn(
                f"{num_shared} texts of reference set {first!r} are also in {second!r}. Give each set a `seed` of its "
                "own and all the same `num_seeds`, under `data.reference_sets`.",
                stacklevel=2,
            )
