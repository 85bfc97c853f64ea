"""Where single weights went: the same tables in the terminal and on the page. No torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparc3_lightning.report.circuit_tables import layer_ranges
from sparc3_lightning.report.rows import Table

Part = Mapping[str, Any]


def weight_tables(parts: Sequence[Part]) -> list[Table]:
    """How many weights of each range of layers went, and of each kind of layer.

    Args:
        parts: As `WeightRecipe.parts` gives them.
    """
    ranges = layer_ranges(max((part["layer"] for part in parts if part["layer"] is not None), default=0) + 1)

    def by_layer(part: Part) -> str:  # lm_head lies in no block
        return str(part["kind"]) if part["layer"] is None else ranges[part["layer"]]

    kinds = len({part["kind"] for part in parts})
    by_kind = [_table(parts, lambda part: str(part["kind"]), "kind of layer")] if kinds > 1 else []
    return [_table(parts, by_layer, "layers"), *by_kind]


def _table(parts: Sequence[Part], name: Callable[[Part], str], what: str) -> Table:
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(name(part), []).append(part)
    rows = []
    for group, found in groups.items():
        num, total = (sum(part[key] for part in found) for key in ("num_removed", "num"))
        rows.append([group, f"{num:,}", f"{total:,}", f"{100 * num / total:.2g} %"])
    return Table([what, "weights removed", "of", "share"], rows, title=f"Weights removed, by {what}")
