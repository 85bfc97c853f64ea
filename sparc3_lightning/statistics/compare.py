"""Before against after, column by column: interval, tests, size of the effect, power."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sparc3_lightning.metrics.measure import Column, exp_mean, row_means
from sparc3_lightning.statistics.effects import Power, power, rank_biserial, standardised_effect
from sparc3_lightning.statistics.intervals import (
    Interval,
    bootstrap_means,
    paired_change,
    perplexity_bootstrap,
    two_stage_means,
)
from sparc3_lightning.statistics.p_values import (
    PairedTest,
    Tested,
    exchange_tests,
    least_p_value,
    sign_flip_p_values,
    wilcoxon_p_value,
)

Columns = Mapping[str, Column]


@dataclass(frozen=True)
class Change:
    """A column's figure before and after, with what its pairing tells.

    Attributes:
        before: The figure before.
        after: The figure after.
        change: Their difference.
        relative: The difference as a fraction of the figure before; None where that is 0.
        interval: Bootstrap interval of the change, percentile; prompts are drawn with all their completions. Against a
            control, the shifts that its test does not reject.
        interval_bca: The same draws' bias-corrected and accelerated interval; None where it is not defined, and against
            a control.
        interval_two_stage: Percentile, completions drawn again within each drawn prompt: too wide; None where a prompt
            has one value, and against a control.
        p_value: Two-sided, sign-flip; against a control, by exchange of the models.
        p_value_least: The least that this test can give with so many rows and draws.
        p_value_wilcoxon: Two-sided, signed ranks; None against a control, whose mean makes the changes skew.
        effect_size: Mean change in standard deviations of the changes; None where nothing varies.
        rank_biserial: Share of the ranks that rose less share of those that fell; None where nothing changed, and
            against a control.
        share_improved: Share of rows that got better.
        share_worsened: Share that got worse; the rest did not change.
        num_pairs: Rows paired: those with a value on both sides.
        power: What this many rows could see; None of windows, which are one text's.
    """

    before: float
    after: float
    change: float
    relative: float | None
    interval: Interval
    interval_bca: Interval | None
    interval_two_stage: Interval | None
    p_value: float
    p_value_least: float
    p_value_wilcoxon: float | None
    effect_size: float | None
    rank_biserial: float | None
    share_improved: float
    share_worsened: float
    num_pairs: int
    power: Power | None

    def fell(self, alpha: float) -> bool:
        """Whether the figure fell significantly: interval below 0 and p-value below `alpha`."""
        return self.interval.high < 0 and self.p_value < alpha

    def rose(self, alpha: float) -> bool:
        """Whether the figure rose significantly."""
        return self.interval.low > 0 and self.p_value < alpha


@dataclass(frozen=True)
class _Pairs:
    """A column's rows that every model has.

    Attributes:
        column: The last model's.
        models: The values of each model, (N,) or (N, J).
    """

    column: Column
    models: list[Tensor]

    @staticmethod
    def of(columns: Sequence[Column]) -> "_Pairs":
        if all(column.is_complete for column in columns) or columns[-1].weights is not None:
            return _Pairs(columns[-1], [column.values for column in columns])
        rows = torch.stack([column.by_row for column in columns])
        return _Pairs(columns[-1], list(rows[:, ~rows.isnan().any(dim=0)]))

    @cached_property
    def before(self) -> Tensor:
        """Mean of all models but the last."""
        return torch.stack(self.models[:-1]).mean(dim=0)

    @cached_property
    def changes(self) -> Tensor:
        """The last model - the mean of the others, of the values' shape."""
        return paired_change(self.before, self.models[-1])

    @cached_property
    def by_row(self) -> Tensor:
        """The changes, one a row."""
        return _by_row(self.changes)

    @property
    def figures(self) -> tuple[float, float]:
        """Before and after."""
        weights, after = self.column.weights, self.models[-1]
        if weights is None:
            return float(self.before.mean()), float(after.mean())
        old, new = (exp_mean(float(losses.sum()), float(weights.sum())) for losses in (self.before, after))
        return old, new


def compare(before: Columns, after: Columns, test: PairedTest | None = None) -> dict[str, Change]:
    """Compare two models' columns, of the same prompts and text.

    Args:
        before: The reference's, such as the baseline's.
        after: The other's, such as the pruned model's.
        test: Settings of the statistics.

    Returns:
        By name of the column; without those that no row has a value of on both sides.

    Raises:
        ValueError: They have not the same columns, or one was not made with the same rows and settings.
    """
    test = test or PairedTest()
    found = _paired([before, after])
    two_stage = _two_stage({name: pairs.changes for name, pairs in found.items()}, test)
    changes: dict[str, Change] = {}
    for names in _drawn_together(found):
        columns = torch.stack([found[name].by_row for name in names], dim=1)
        weights = after[names[0]].weights
        if weights is None:
            bootstraps = bootstrap_means(columns, test.num_draws, test.seed)
        else:
            bootstraps = [
                perplexity_bootstrap(
                    before[names[0]].values, after[names[0]].values, weights, test.num_draws, test.seed
                )
            ]
        p_values = sign_flip_p_values(columns, test.num_patterns, test.seed)
        least = least_p_value(len(columns), test.num_patterns)
        for name, bootstrap, p_value in zip(names, bootstraps, p_values, strict=True):
            changes[name] = replace(
                _described(found[name], Tested(p_value, least, bootstrap.percentile(test.confidence)), test),
                interval_bca=bootstrap.bca(test.confidence),
                interval_two_stage=two_stage.get(name),
                p_value_wilcoxon=wilcoxon_p_value(found[name].by_row),
                rank_biserial=rank_biserial(found[name].by_row),
            )
    return {name: changes[name] for name in after if name in changes}


def compare_with_control(
    controls: Sequence[Columns], after: Columns, test: PairedTest | None = None
) -> dict[str, Change]:
    """The pruned model against models that lost as many random neurons; see `exchange_tests`.

    Args:
        controls: Columns of the control, of one draw each.
        after: The pruned model's.
        test: Settings of the statistics.

    Returns:
        By name of the column, with the mean of the draws as `before`; of an `exp_mean` exp of the draws' mean.

    Raises:
        ValueError: No control, or one made with another text, other prompts or settings.
    """
    test = test or PairedTest()
    if not controls:
        raise ValueError("a control needs at least one draw, got none.")
    found = _paired([*controls, after])
    changes: dict[str, Change] = {}
    for names in _drawn_together(found):
        by_model = [
            torch.stack([_by_row(values) for values in (found[name].models[-1], *found[name].models[:-1])], dim=1)
            for name in names
        ]
        weights = after[names[0]].weights
        sizes = torch.ones(len(by_model[0]), dtype=torch.float64) if weights is None else weights
        tests = exchange_tests(torch.stack(by_model, dim=2), sizes, test.num_draws, test.seed, test.confidence)
        for name, tested in zip(names, tests, strict=True):
            changes[name] = _described(found[name], tested if weights is None else _of_exp(tested, found[name]), test)
    return {name: changes[name] for name in after if name in changes}


def _of_exp(tested: Tested, pairs: _Pairs) -> Tested:
    """A test on the scale of the logarithm, with the interval of the figure itself."""
    before, _ = pairs.figures
    low, high = (before * (exp_mean(shift, 1) - 1) for shift in (tested.interval.low, tested.interval.high))
    return replace(tested, interval=replace(tested.interval, low=low, high=high))


def _paired(models: Sequence[Columns]) -> dict[str, _Pairs]:
    """The columns where a row has a value by all models.

    Raises:
        ValueError: Other names, rows or settings.
    """
    *others, last = models
    for before in others:
        if before.keys() != last.keys():
            raise ValueError(f"`before` and `after` must have the same columns, got {[*before]} and {[*last]}.")
        for name, new in last.items():
            old, now = ({f"{one.rows}s": list(one.ids), **one.setting} for one in (before[name], new))
            differ = [key for key in {**old, **now} if old.get(key) != now.get(key)]
            if differ:
                raise ValueError(
                    f"`{name}` can be paired only with the same {differ[0].replace('_', ' ')}; `before` and `after` "
                    "differ."
                )
    found = {name: _Pairs.of([columns[name] for columns in models]) for name in last}
    return {name: pairs for name, pairs in found.items() if len(pairs.models[0])}


def _drawn_together(found: Mapping[str, _Pairs]) -> list[list[str]]:
    """Names of means of as many rows, which share the draws that cost; every other column alone."""
    return _alike(
        {name: len(pairs.models[0]) if pairs.column.weights is None else name for name, pairs in found.items()}
    )


def _two_stage(changes: Mapping[str, Tensor], test: PairedTest) -> dict[str, Interval]:
    nested = {name: change for name, change in changes.items() if change.ndim == 2 and change.shape[1] > 1}
    found: dict[str, Interval] = {}
    for names in _alike({name: change.shape for name, change in nested.items()}):
        together = torch.stack([nested[name] for name in names], dim=2)
        for name, bootstrap in zip(names, two_stage_means(together, test.num_draws, test.seed), strict=True):
            found[name] = bootstrap.percentile(test.confidence)
    return found


def _described(pairs: _Pairs, tested: Tested, test: PairedTest) -> Change:
    """What any two sides have; the rest is None."""
    (old, new), change, column = pairs.figures, pairs.by_row, pairs.column
    fell, rose = float((change < 0).double().mean()), float((change > 0).double().mean())
    is_text = column.rows == "window" or column.weights is not None
    return Change(
        before=old,
        after=new,
        change=new - old,
        relative=share_of(old, new - old),
        interval=tested.interval,
        interval_bca=None,
        interval_two_stage=None,
        p_value=tested.p_value,
        p_value_least=tested.p_value_least,
        p_value_wilcoxon=None,
        effect_size=standardised_effect(change),
        rank_biserial=None,
        share_improved=fell if column.better == "lower" else rose,
        share_worsened=rose if column.better == "lower" else fell,
        num_pairs=len(change),
        power=None if is_text else power(pairs.changes, test.alpha, test.wanted_power),
    )


def share_of(before: float, change: float) -> float | None:
    """A change as a fraction of what was, with the change's own sign also where that is below 0; None of nothing."""
    return change / abs(before) if before else None


def _by_row(values: Tensor) -> Tensor:
    return row_means(values) if values.ndim == 2 else values


def _alike(keys: Mapping[str, object]) -> list[list[str]]:
    """Names of equal keys together."""
    names: dict[object, list[str]] = {}
    for name, key in keys.items():
        names.setdefault(key, []).append(name)
    return list(names.values())
