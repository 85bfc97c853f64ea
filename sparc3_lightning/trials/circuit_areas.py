"""Areas under circuits' curves as MIB defines them, and how sure they are: intervals over the samples asked."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from sparc3_lightning.statistics.intervals import Values, unit_weights
from sparc3_lightning.statistics.p_values import PairedTest
from sparc3_lightning.trials import AREAS, EMPTY, HELD_OUT, WHOLE
from sparc3_lightning.trials.circuit import CircuitTrial, Row

Scenes = Mapping[tuple[str, str], Sequence[str]]
"""By draw and what it was asked, what each sample is drawn with; see `ReferenceSamples.scenes`."""
_LOWER = {"cmd": 1.0, "accuracy_area": -1.0}
"""Areas by which a method is called the best, and what makes the lower one the better."""


def area(shares: Sequence[float], values: Values) -> Values:
    """Areas under curves over the shares, by trapezoids.

    Shape:
        (K,) and (..., K) to (...).
    """
    found: Values = np.asarray(np.trapezoid(values, np.array(shares), axis=-1))
    return found


def areas_of(shares: Sequence[float], faithful: Values, accuracy: Values) -> dict[str, Values]:
    """The three areas of curves, by name; see `area`."""
    found = area(shares, faithful), area(shares, np.abs(1 - faithful)), area(shares, accuracy)
    return dict(zip(AREAS, found, strict=True))


def area_rows(rows: Sequence[Row]) -> list[Row]:
    """Areas of each method on each task, under each ablation: means over the task's draws, with the least and largest.

    `cpr` is the area under faithfulness, better higher; `cmd` the area between it and 1, better lower. Both as MIB has
    them: over the shares that really stay, on a linear axis. `accuracy_area` is the area under accuracy, as it is, over
    the same shares. A curve with a failed circuit counts for nothing.
    """
    curves: dict[tuple[str, str, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row["method"] not in (EMPTY, WHOLE):
            of_curve = curves.setdefault((row["task"], row["method"], row["ablation"], row["asked"]), {})
            of_curve.setdefault(row["draw"], []).append(row)
    found = []
    for (task, method, ablation, asked), draws in curves.items():
        whole = [curve for curve in draws.values() if all(row.get("faithfulness") is not None for row in curve)]
        if whole:
            named = {"task": task, "method": method, "ablation": ablation, "asked": asked, "num_draws": len(whole)}
            found.append({**named, **_spread(whole)})
    return found


def _spread(draws: Iterable[Sequence[Row]]) -> Row:
    """Mean, least and largest area over the draws' curves."""
    found: dict[str, list[float]] = {name: [] for name in AREAS}
    for curve in draws:
        ordered = sorted(curve, key=lambda row: row["share"])
        shares = [float(row.get("share_kept") or row["share"]) for row in ordered]  # earlier tables have one alone
        faithful, accuracy = (np.array([row[name] for row in ordered]) for name in ("faithfulness", "accuracy"))
        for name, value in areas_of(shares, faithful, accuracy).items():
            found[name].append(float(value))
    return {
        key: of(values)
        for name, values in found.items()
        for key, of in ((name, mean), (f"{name}_least", min), (f"{name}_largest", max))
    }


class Resamples:
    """Bootstrap draws of the samples that circuits were asked, the same for every method and ablation.

    Held-out samples are the same for all draws of a task, and so are their resamples; each draw's own are drawn by
    themselves. Samples of one scene are drawn together.

    Args:
        trials: Those that `circuit_rows` takes.
        scenes: Of their samples.
        test: Settings of the statistics.
    """

    def __init__(self, trials: Sequence[CircuitTrial], scenes: Scenes, test: PairedTest) -> None:
        self.scenes, self.test = scenes, test
        self.draws = list(dict.fromkeys(one.draw for one in trials))
        self.trials: dict[tuple[str, str, str], list[CircuitTrial]] = {}
        for one in trials:
            self.trials.setdefault((one.draw, one.ablation, one.method), []).append(one)
        self._weights: dict[tuple[str, str], Values] = {}

    def means(self, of: CircuitTrial, asked: str, values: Values) -> Values:
        """Means over the samples in each resample.

        Args:
            of: Names task and draw.
            asked: Of which of their samples.
            values: Of each of the samples.

        Shape:
            (K, S) to (B, K).
        """
        key = (of.task if asked == HELD_OUT else of.draw, asked)
        if key not in self._weights:
            units = self.scenes.get((of.draw, asked)) or [str(place) for place in range(values.shape[1])]
            seed = self.test.seed + (0 if asked == HELD_OUT else 1 + self.draws.index(of.draw))
            self._weights[key] = unit_weights(units, self.test.num_draws, seed)
        found: Values = self._weights[key] @ values.T
        return found

    def interval(self, draws: Values) -> tuple[float | None, float | None]:
        """Quantiles of a figure's resamples; None where it is not defined in one of them."""
        if not np.isfinite(draws).all():
            return None, None
        low, high = np.quantile(draws, [(1 - self.test.confidence) / 2, (1 + self.test.confidence) / 2])
        return float(low), float(high)

    def end(self, draw: str, ablation: str, method: str, asked: str) -> Values | None:
        """Logit differences of a draw's whole model or empty circuit, (S,); None where it has failed."""
        found = [one for one in self.trials.get((draw, ablation, method), []) if asked in one.differences]
        return found[0].differences[asked].numpy() if found else None

    def areas(self, row: Row) -> dict[str, Values] | None:
        """The areas of a row of `area_rows` in each resample, (B,) each; None where the trials are not those."""
        task, method, ablation, asked = (row[name] for name in ("task", "method", "ablation", "asked"))
        curves = [self.trials.get((draw, ablation, method), []) for draw in self.draws]
        of_draws = [self._areas_of(curve, asked) for curve in curves if curve and curve[0].task == task]
        known = [one for one in of_draws if one is not None]
        return {name: np.mean([one[name] for one in known], axis=0) for name in AREAS} if known else None

    def _areas_of(self, curve: Sequence[CircuitTrial], asked: str) -> dict[str, Values] | None:
        first = curve[0]
        empty, whole = (self.end(first.draw, first.ablation, method, asked) for method in (EMPTY, WHOLE))
        if empty is None or whole is None or any(asked not in one.differences for one in curve):
            return None
        if empty.mean() == whole.mean():  # as in `faithfulness`
            return None
        ordered = sorted(curve, key=lambda one: one.share)
        values = np.stack([one.differences[asked].numpy() for one in ordered])
        none, full = self.means(first, asked, np.stack([empty, whole])).T[:, :, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            faithful = (self.means(first, asked, values) - none) / (full - none)
        accuracy = self.means(first, asked, (values > 0).astype(np.float64))
        return areas_of([one.share_kept for one in ordered], faithful, accuracy)


def with_intervals(areas: Sequence[Row], resamples: Resamples) -> list[Row]:
    """The rows of `area_rows`, each area with its interval, and how far the method lies behind the best one.

    `cmd_behind` and `accuracy_area_behind` are 0 for the best of a task, ablation and question (of those with most
    draws), larger for others; their intervals are of the paired differences. All are percentile intervals over the
    samples, not corrected for their number; which circuits the draws have led to is taken as given.

    Args:
        areas: See `area_rows`.
        resamples: Of the samples that the rows are made of.
    """
    drawn, found = [resamples.areas(row) for row in areas], [dict(row) for row in areas]
    for row, draws in zip(found, drawn, strict=True):
        for name, values in (draws or {}).items():
            row[f"{name}_low"], row[f"{name}_high"] = resamples.interval(values)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(found):
        groups.setdefault((row["task"], row["ablation"], row["asked"]), []).append(place)
    for places in groups.values():
        most = max(found[place]["num_draws"] for place in places)
        ours = [place for place in places if found[place]["num_draws"] == most]
        for name, sign in _LOWER.items():
            best = min(ours, key=lambda place, name=name, sign=sign: sign * found[place][name])  # type: ignore[misc]
            for place in ours:
                found[place][f"{name}_behind"] = sign * (found[place][name] - found[best][name]) + 0.0  # no -0.0
                if (one := drawn[place]) is not None and (first := drawn[best]) is not None:
                    ends = resamples.interval(sign * (one[name] - first[name]) + 0.0)
                    found[place][f"{name}_behind_low"], found[place][f"{name}_behind_high"] = ends
    return [{**row, "confidence": resamples.test.confidence} for row in found]


def end_rows(trials: Sequence[CircuitTrial], resamples: Resamples) -> list[Row]:
    """By how much the whole model's logit difference lies above the empty circuit's, with its interval over samples.

    Where that reaches 0, chance says what faithfulness 0 and 1 are; where the empty circuit's own difference is clearly
    away from 0, faithfulness 0 is not what chance does.

    Args:
        trials: Those that `circuit_rows` takes.
        resamples: Of their samples.
    """
    rows = []
    for one in trials:
        if one.method != WHOLE:
            continue
        for asked in one.differences:
            ends = [resamples.end(one.draw, one.ablation, method, asked) for method in (EMPTY, WHOLE)]
            empty, whole = ends
            if empty is None or whole is None:
                continue
            none, full = resamples.means(one, asked, np.stack([empty, whole])).T
            low, high = resamples.interval(full - none)
            empty_low, empty_high = resamples.interval(none)
            rows.append({
                "task": one.task, "draw": one.draw, "ablation": one.ablation, "asked": asked,
                "difference": float(whole.mean() - empty.mean()), "low": low, "high": high,
                "whole": float(whole.mean()), "empty": float(empty.mean()), "empty_low": empty_low,
                "empty_high": empty_high, "confidence": resamples.test.confidence,
            })  # fmt: skip
    return rows
