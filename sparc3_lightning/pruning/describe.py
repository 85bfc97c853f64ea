"""A recipe's options, and a manifest's, in words."""

from collections.abc import Iterable
from typing import Any


def describe_option(value: Any) -> str:
    """One line for a value; a reference set is named with its number of samples."""
    if isinstance(value, dict):
        return (
            _describe_set(value)
            if "num_samples" in value
            else _join(f"{key} {describe_option(value[key])}" for key in value)
        )
    return _join(map(describe_option, value)) if isinstance(value, list) else str(value)


def _describe_set(data: dict[str, Any]) -> str:
    return f"{data.get('name', 'unnamed')} ({data['num_samples']} samples)"


def _join(parts: Iterable[str]) -> str:
    return ", ".join(parts)
