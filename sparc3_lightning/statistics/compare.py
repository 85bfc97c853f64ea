"""Before against after, column by column: interval, tests, size of the effect, power."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.metrics.measure import Column, exp_mean, row_means
from sparc3_lightning.statistics.effects import Power, power, rank_biserial, standardised_effect
from sparc3_lightning.statistics.exchange import Tested, exchange_tests
from sparc3_lightning.statistics.intervals import (
    Bootstrap,
    Interval,
    bootstrap_means,
    perplexity_bootstrap,
    two_stage_means,
)
from sparc3_lightning.statistics.signs import (
    PairedTest,
    completion_changes,
    least_p_value,
    sign_flip_p_values,
    wilcoxon_of_changes,
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
    """A column's rows that every model has: the values of each model, (N,) or (N, J)."""

    column: Column
    models: list[Tensor]

    @staticmethod
    def of(columns: Sequence[Column]) -> "_Pairs":
        if all(column.is_complete for column in columns):
            return _Pairs(columns[-1], [column.values for column in columns])
        rows = torch.stack([column.by_row for column in columns])
        return _Pairs(columns[-1], list(rows[:, ~rows.isnan().any(dim=0)]))

    @property
    def changes(self) -> Tensor:
        """Last model - the mean of the others, of the values' shape."""
        *before, after = self.models
        return completion_changes(torch.stack(before).mean(dim=0) if len(before) > 1 else before[0], after)

    @property
    def figures(self) -> tuple[float, float]:
        """The mean before (of the others' mean) and after."""
        *before, after = self.models
        return float((torch.stack(before).mean(dim=0) if len(before) > 1 else before[0]).mean()), float(after.mean())


def compare(before: Evaluation, after: Evaluation, test: PairedTest | None = None) -> dict[str, Change]:
    """Compare two evaluations of the same prompts and text.

    Args:
        before: The reference, such as the baseline.
        after: The other, such as the pruned one.
        test: Settings of the statistics.

    Returns:
        By name of the column; without those that no row has a value of on both sides.

    Raises:
        ValueError: They have not the same columns, or one was not made with the same rows and settings.
    """
    return compare_columns(before.columns, after.columns, test)


def compare_columns(before: Columns, after: Columns, test: PairedTest | None = None) -> dict[str, Change]:
    """`compare` of columns that are at hand."""
    test = test or PairedTest()
    check_pairable(before, after)
    changes = _mean_changes(_means([before, after]), test)
    for name, column in after.items():
        if column.weights is not None:
            changes[name] = _exp_mean_change(before[name], column, test)
    return {name: changes[name] for name in after if name in changes}


def compare_with_control(
    controls: Sequence[Evaluation], after: Evaluation, test: PairedTest | None = None
) -> dict[str, Change]:
    """The pruned model against models that lost as many random neurons; see `statistics.exchange`.

    Args:
        controls: Evaluations of the control, one a draw.
        after: The pruned model's evaluation.
        test: Settings of the statistics.

    Returns:
        By name of the column, with the mean of the draws as `before`; of an `exp_mean` exp of the draws' mean.

    Raises:
        ValueError: No control, or one made with another text, other prompts or settings.
    """
    test = test or PairedTest()
    if not controls:
        raise ValueError("a control needs at least one draw, got none.")
    for control in controls:
        check_pairable(control.columns, after.columns)
    draws = [control.columns for control in controls]
    changes = _mean_changes_against(_means([*draws, after.columns]), test)
    for name, column in after.columns.items():
        if column.weights is not None:
            changes[name] = _exp_mean_change_against([draw[name] for draw in draws], column, test)
    return {name: changes[name] for name in after.columns if name in changes}


def check_pairable(before: Columns, after: Columns) -> None:
    """Refuse columns that cannot be paired row by row.

    Raises:
        ValueError: Other names, rows or settings.
    """
    if before.keys() != after.keys():
        raise ValueError(f"`before` and `after` must have the same columns, got {[*before]} and {[*after]}.")
    for name, old in before.items():
        new = after[name]
        settings = [{f"{column.rows}s": list(column.ids), **column.setting} for column in (old, new)]
        differ = [key for key in {**settings[0], **settings[1]} if settings[0].get(key) != settings[1].get(key)]
        if differ:
            raise ValueError(
                f"`{name}` can be paired only with the same {differ[0].replace('_', ' ')}; `before` and `after` differ."
            )


def _means(models: Sequence[Columns]) -> dict[str, _Pairs]:
    """The columns that are means, where a row has a value by all models."""
    names = [name for name, column in models[-1].items() if column.weights is None]
    found = {name: _Pairs.of([columns[name] for columns in models]) for name in names}
    return {name: pairs for name, pairs in found.items() if len(pairs.models[0])}


def _mean_changes(found: Mapping[str, _Pairs], test: PairedTest) -> dict[str, Change]:
    """Compare means; those of as many rows share the draws, which are what costs."""
    two_stage = _two_stage({name: pairs.changes for name, pairs in found.items()}, test)
    changes: dict[str, Change] = {}
    for names in _alike({name: len(pairs.models[0]) for name, pairs in found.items()}):
        columns = torch.stack([_by_row(found[name].changes) for name in names], dim=1)
        drawn = zip(
            names,
            bootstrap_means(columns, test.num_draws, test.seed),
            sign_flip_p_values(columns, test.num_patterns, test.seed),
            strict=True,
        )
        for name, bootstrap, p_value in drawn:
            pairs = found[name]
            change = _flipped(pairs.column, pairs.figures, bootstrap, _by_row(pairs.changes), p_value, test)
            changes[name] = replace(
                change, interval_two_stage=two_stage.get(name), power=_power(pairs.column, pairs.changes, test)
            )
    return changes


def _exp_mean_change(before: Column, after: Column, test: PairedTest) -> Change:
    assert before.weights is not None
    assert before.figure is not None
    assert after.figure is not None
    losses = before.values, after.values
    bootstrap = perplexity_bootstrap(*losses, before.weights.tolist(), test.num_draws, test.seed)
    change = completion_changes(*losses)
    (p_value,) = sign_flip_p_values(change.unsqueeze(1), test.num_patterns, test.seed)
    return _flipped(after, (before.figure, after.figure), bootstrap, change, p_value, test)


def _mean_changes_against(found: Mapping[str, _Pairs], test: PairedTest) -> dict[str, Change]:
    """Compare means with a control's; those of as many rows share the exchanges."""
    changes: dict[str, Change] = {}
    for names in _alike({name: len(pairs.models[0]) for name, pairs in found.items()}):
        by_model = [
            torch.stack([_by_row(values) for values in (found[name].models[-1], *found[name].models[:-1])], dim=1)
            for name in names
        ]
        sizes = torch.ones(len(by_model[0]), dtype=torch.float64)
        for name, tested in zip(names, _exchanged(torch.stack(by_model, dim=2), sizes, test), strict=True):
            pairs = found[name]
            described = _described(pairs.column, pairs.figures, _by_row(pairs.changes), tested)
            changes[name] = replace(described, power=_power(pairs.column, pairs.changes, test))
    return changes


def _exp_mean_change_against(draws: Sequence[Column], after: Column, test: PairedTest) -> Change:
    """Against a control, on the scale of the logarithm."""
    assert after.weights is not None
    assert after.figure is not None
    losses = torch.stack([column.values for column in (after, *draws)], dim=1)
    (found,) = _exchanged(losses.unsqueeze(2), after.weights, test)
    control = losses[:, 1:].mean(dim=1)
    before = exp_mean(float(control.sum()), float(after.weights.sum()))
    low, high = (before * (exp_mean(shift, 1) - 1) for shift in (found.interval.low, found.interval.high))
    found = replace(found, interval=replace(found.interval, low=low, high=high))
    return _described(after, (before, after.figure), losses[:, 0] - control, found)


def _exchanged(values: Tensor, sizes: Tensor, test: PairedTest) -> list[Tested]:
    return exchange_tests(values, sizes, test.num_draws, test.seed, test.confidence)


def _two_stage(changes: Mapping[str, Tensor], test: PairedTest) -> dict[str, Interval]:
    nested = {name: change for name, change in changes.items() if change.ndim == 2 and change.shape[1] > 1}
    found: dict[str, Interval] = {}
    for names in _alike({name: change.shape for name, change in nested.items()}):
        together = torch.stack([nested[name] for name in names], dim=2)
        for name, bootstrap in zip(names, two_stage_means(together, test.num_draws, test.seed), strict=True):
            found[name] = bootstrap.percentile(test.confidence)
    return found


def _flipped(
    column: Column,
    figures: tuple[float, float],
    bootstrap: Bootstrap,
    change: Tensor,
    p_value: float,
    test: PairedTest,
) -> Change:
    least = least_p_value(len(change), test.num_patterns)
    tested = Tested(p_value, least, bootstrap.percentile(test.confidence))
    return replace(
        _described(column, figures, change, tested),
        interval_bca=bootstrap.bca(test.confidence),
        p_value_wilcoxon=wilcoxon_of_changes(change),
        rank_biserial=rank_biserial(change),
    )


def _described(column: Column, figures: tuple[float, float], change: Tensor, tested: Tested) -> Change:
    """What any two sides have; the rest is None."""
    old, new = figures
    fell, rose = float((change < 0).double().mean()), float((change > 0).double().mean())
    return Change(
        before=old,
        after=new,
        change=new - old,
        relative=(new - old) / old if old else None,
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
        power=None,
    )


def _power(column: Column, changes: Tensor, test: PairedTest) -> Power | None:
    return None if column.rows == "window" else power(changes, test.alpha, test.wanted_power)


def _by_row(values: Tensor) -> Tensor:
    return row_means(values) if values.ndim == 2 else values


def _alike(keys: Mapping[str, object]) -> list[list[str]]:
    """Names of equal keys together."""
    names: dict[object, list[str]] = {}
    for name, key in keys.items():
        names.setdefault(key, []).append(name)
    return list(names.values())
