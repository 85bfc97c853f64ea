"""What a sweep, a compression and circuits leave, without running one."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

from sparc3_lightning.files import write_text
from sparc3_lightning.report.circuit_figures import write_circuit
from sparc3_lightning.trials import AREAS, EMPTY, HELD_OUT, IN_SAMPLE, WHOLE
from sparc3_lightning.trials.circuit import SHARES
from sparc3_lightning.trials.circuit_areas import area_rows
from sparc3_lightning.trials.sweep_table import write_tables
from sparc3_lightning.trials.table import write_table

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="400pt" height="9pt" viewBox="0 0 400 9"></svg>'
WIDE = SVG.replace("400", "600")
LINEARS = (*(f"self_attn.{which}_proj" for which in "qkvo"), *(f"mlp.{which}_proj" for which in ("gate", "up", "down")))


def sweep_rows(attribute: str = "insult") -> list[dict[str, Any]]:
    """The baseline, a cell, a random one and one that has failed."""
    name = f"{attribute}_mean"
    change = {"change": -0.1, "relative": -0.2, "low": -0.15, "high": -0.05, "p": 0.004}
    price = {"relative": 0.01, "paid": 0.01, "p": 0.5, "relative_low": -0.01, "relative_high": 0.02}
    figures = {"perplexity_sliding": 20.2, name: 0.4, "status": "done", "error": None, "scope": "global",
               **{f"{name}_{end}": value for end, value in change.items()},
               **{f"perplexity_sliding_{end}": value for end, value in price.items()}}  # fmt: skip
    return [
        {"label": "baseline", "key": "baseline", "method": "baseline", "num_neurons": 0, "status": "done",
         "perplexity_sliding": 20.0, name: 0.5, "attribute": attribute, "behaviour": name, "alpha": 0.05},
        {"label": "lrp, k 4, global", "key": "lrp", "method": "lrp", "num_neurons": 4, **figures,
         "fingerprint": "1f", "p_holm": 0.008, "p_holm_least": 0.001},
        {"label": "random, k 4, global, draw 0", "key": "random", "method": "random", "num_neurons": 4, **figures,
         "fingerprint": "2f"},
        {"label": "lrp, k 16, global", "key": "lrp", "method": "lrp", "num_neurons": 16, "status": "failed",
         "error": "RuntimeError: <i>broken</i>", "scope": "global", "fingerprint": "3f"},
    ]  # fmt: skip


def at_price_rows() -> list[dict[str, Any]]:
    """One method at one price."""
    return [
        {"price": 0.01, "options": "all", "key": "lrp", "label": "lrp, k 4, global", "perplexity_relative": 0.01,
         "choice_relative": -0.25, "confirmation_relative": -0.15, "p_holm": 0.01, "p_holm_least": 0.001,
         "is_leader": True},
    ]  # fmt: skip


def write_sweep_dir(directory: Path) -> None:
    """Tables, and figures of two widths."""
    write_tables(sweep_rows(), [], at_price_rows(), directory)
    write_text(directory / "figures" / "at_price.svg", WIDE)
    write_text(directory / "figures" / "pareto_sliding.svg", SVG)


def compression_rows(methods: tuple[str, ...] = ("lrp_signed", "wanda")) -> list[dict[str, Any]]:
    """The baseline, and LRP below Wanda at 50 %."""
    price, rows = "perplexity_disjoint", [{"label": "baseline", "method": "baseline", "share": 0.0, "status": "done"}]
    made: list[dict[str, Any]] = [{**rows[0], price: 10.0}]
    for method in methods:
        row = {"label": f"{method}, 50%", "method": method, "sparsity": 0.5, "pattern": None, "share": 0.5,
               "status": "done", "error": None, price: 10.0, f"{price}_relative": 0.0, f"{price}_relative_low": -0.01,
               f"{price}_relative_high": 0.01, f"{price}_relative_p": 0.9}  # fmt: skip
        if method != "wanda":
            row |= {price: 9.5, f"{price}_against": -0.5, f"{price}_against_low": -0.6, f"{price}_against_high": -0.4}
        made.append(row)
    return made


def write_compression_dir(directory: Path) -> None:
    """Tables, and figures of two widths."""
    write_table(compression_rows(), directory)
    write_text(directory / "figures" / "perplexity_disjoint.svg", SVG)
    write_text(directory / "figures" / "against_wanda_disjoint.svg", WIDE)


def write_circuit_dir(directory: Path) -> None:
    """Tables and figures as wide as a run's: two tasks, three ablations, all shares, labels as long as they get."""
    draws = {"ioi_seed0": "ioi", "ioi_seed1": "ioi", "objects": "objects"}
    methods, shares = ("lrp_signed, magnitude", "gradient", "magnitude", "random"), SHARES
    rows, overlaps = [], []
    circuits = [(EMPTY, 0.0), (WHOLE, 1.0), *product(methods, shares)]
    for draw, ablation, asked, (method, share) in product(
        draws, ("zero", "mean", "corrupted"), (IN_SAMPLE, HELD_OUT), circuits
    ):
        kept = share ** (1 + len(method) / 10)
        rows.append({
            "task": draws[draw], "draw": draw, "method": method, "ablation": ablation, "share": share, "asked": asked,
            "accuracy": 0.5 + 0.5 * kept, "argmax_accuracy": kept, "logit_difference": 4 * kept,
            "faithfulness": kept, "error": None,
        })  # fmt: skip
    parts = [
        {"task": draws[draw], "draw": draw, "method": method, "layer": layer, "kind": kind, "num_kept": 3, "num": 1536}
        for draw, method, layer, kind in product(draws, methods, range(30), LINEARS)
    ]
    figures = {"num_shared": 61, "jaccard": 0.5, "expected": 18.4, "p_value": 0.0001}
    for (one, task), (other, of_other) in combinations(draws.items(), 2):
        what = "draws" if task == of_other else "tasks"
        overlaps += [{"what": what, "task": task, "other_task": of_other, "of": method, "first": one, "second": other,
                      **figures} for method in methods]  # fmt: skip
    for draw, task in draws.items():
        overlaps += [{"what": "methods", "task": task, "other_task": task, "of": draw, "first": one, "second": other,
                      **figures} for one, other in combinations(methods, 2)]  # fmt: skip
    areas = area_rows(rows)
    for row in areas:
        row |= {f"{name}_{end}": row[name] + more for name in AREAS for end, more in (("low", -0.1), ("high", 0.1))}
        for name in ("cmd", "accuracy_area"):
            row |= {f"{name}_behind": 0.2, f"{name}_behind_low": 0.1, f"{name}_behind_high": 0.3}
        row["confidence"] = 0.95
    write_circuit(rows, areas, parts, overlaps, directory)
