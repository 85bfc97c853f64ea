"""Modules chosen by name patterns."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase


def matching_names(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Those of `names` that a pattern matches, in their order.

    Args:
        names: Names of the linear layers.
        patterns: Shell wildcards such as "model.layers.0.*", or regular expressions after "re:".

    Raises:
        ValueError: A pattern matches none.
    """
    matched: set[str] = set()
    for pattern in patterns:
        is_regex = pattern.startswith("re:")
        hits = [n for n in names if (re.fullmatch(pattern[3:], n) if is_regex else fnmatchcase(n, pattern))]
        if not hits:
            raise ValueError(
                f"`modules` must be 'neurons', 'all' or patterns that match linear layers, got {pattern!r}, which "
                f"matches none of {len(names)} layers such as {names[0]!r}. Set `model.modules`."
            )
        matched.update(hits)
    return [name for name in names if name in matched]
