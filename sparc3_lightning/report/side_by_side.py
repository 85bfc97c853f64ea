"""Runs side by side: what was measured, how neurons were chosen, and what differs in their configs.

No torch, unless one of them was left by `test`.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from sparc3_lightning.files import load_yaml, write_json, write_text
from sparc3_lightning.report.behaviour_tables import overlap_table, recipe_table
from sparc3_lightning.report.circuit_tables import cautions
from sparc3_lightning.report.paired import change_cells, evaluation_files, paired_columns
from sparc3_lightning.report.read import read_results
from sparc3_lightning.report.rows import Table, figure_rows, in_brackets
from sparc3_lightning.report.sections import BEHAVIOURS, RESULTS_FILE, Data, experiments_in, read_experiment
from sparc3_lightning.report.trial_tables import by_amount, first_at_prices
from sparc3_lightning.trials import ASKED
from sparc3_lightning.trials.table import prices_of
from sparc3_lightning.wording import MISSING, number, p_value, percent

if TYPE_CHECKING:  # it loads no torch
    from sparc3_lightning.report.rows import FigureRow
    from sparc3_lightning.runs.results import Results

Column = Mapping[tuple[str, ...], str]
"""What a table has of one run: cells by the names of their rows."""
FORMATS = (".csv", ".json")
_SELECTION = ("recipe", "num_neurons", "num_neurons_of_model", "num_weights", "num_weights_scored", "sparsity",
              "method", "scope", "general_weight", "general_penalty", "general", "behaviour",
              "num_below_zero")  # fmt: skip
_RELEVANCE = ("variant", "sign", "target", "explain", "granularity", "modules")
_DERIVED = ("enrichment", "Jaccard")  # from what two behaviours share, and how many they might
_SECRET = re.compile(r"(^|[._])(token|password|secret|api_?key|credentials?)$", re.IGNORECASE)
_LONG = 40  # signs of a value that is shown whole
_LEAST = 12  # as few as a column of them gets
_GAP = 2  # between columns
_STATISTICS = {"num_draws": "num_draws", "statistics_seed": "seed", "confidence": "confidence"}
"""Options of the evaluator that say how a run's paired tests are made, and what these call them."""


@dataclass(frozen=True)
class ComparedRun:
    """A run as it is compared.

    Attributes:
        name: What its column is called.
        results: Of its suppression; None without one.
        experiments: What its further experiments have left, by kind.
        config: Its config's values by dotted key, as text; empty where it was not kept.
        evaluations: Files of what it has measured of whole models.
    """

    name: str
    results: "Results | None"
    experiments: Mapping[str, Data]
    config: Mapping[str, str]
    evaluations: Sequence[Path] = ()


def read_runs(paths: Sequence[Path]) -> list[ComparedRun]:
    """Read what run directories hold.

    Raises:
        FileNotFoundError: One of them is no run directory, or has left no results of a known kind.
        ValueError: Fewer than two, one twice, or a file that cannot be read.
    """
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"`RUN` must name at least two runs, each once, got {', '.join(map(str, paths))}.")
    return [_read_run(path, name) for path, name in zip(paths, short_paths(paths), strict=True)]


def _read_run(path: Path, name: str) -> ComparedRun:
    found, config, evaluations = experiments_in(path), path / "config.yaml", evaluation_files(path)
    # Without any of them the error says what is missing.
    has_results = (path / RESULTS_FILE).is_file() or not (found or evaluations)
    values = load_yaml(config.read_text(encoding="utf-8"), str(config)) if config.is_file() else {}
    return ComparedRun(
        name,
        read_results(path) if has_results else None,
        {kind: read_experiment(kind, directory) for kind, directory in found.items()},
        dict(flat_config(values)) if isinstance(values, Mapping) and values else {},
        evaluations,
    )


def short_paths(paths: Sequence[Path]) -> list[str]:
    """As few of the last parts of each path as tell them apart, but at least two: `NAME/version_0`."""
    whole = [path.resolve().parts for path in paths]
    num = next((n for n in range(2, max(map(len, whole))) if len({parts[-n:] for parts in whole}) == len(whole)), 0)
    return ["/".join(parts[-num:]) if num else str(path) for parts, path in zip(whole, paths, strict=True)]


def compare_runs(runs: Sequence[ComparedRun]) -> list[Table]:
    """Tables of runs side by side, a column a run; only those that at least two runs have something for.

    Args:
        runs: The runs, in the order of their columns.
    """
    names = [run.name for run in runs]
    results = [run.results for run in runs]
    tables = [
        _table("Measured", ["measure", "figure"], names, [_measured(one) if one else {} for one in results]),
        _table("Recipes: change", ["recipe", "measure"], names, [_recipes(one) if one else {} for one in results]),
        _overlaps(runs),
        _tested(runs),
        _table("Selection", ["option"], names, [_selected(one) if one else {} for one in results]),
        _table(
            "Sweep: what leads at a price", ["up to", "figure"], names, [_leaders(_of(run, "sweep")) for run in runs]
        ),
        _table("Compression", ["price", "model"], names, [_compressed(_of(run, "compression")) for run in runs]),
        *_circuits(runs),
    ]
    alike, configs = [table for table in tables if table is not None], config_table(runs)
    note = "" if alike else "No two of these runs have measured the same kind of thing."
    return [*alike, replace(configs, note=" ".join(filter(None, [configs.note, note])))]


def _of(run: ComparedRun, kind: str) -> Data:
    return run.experiments.get(kind, {})


def _table(title: str, names: Sequence[str], runs: Sequence[str], columns: Sequence[Column]) -> Table | None:
    """Columns beside each other, a row for every name that any of them has; None where fewer than two have any."""
    if sum(bool(column) for column in columns) < 2:
        return None
    groups: dict[str, dict[tuple[str, ...], None]] = {}  # what only a later run has stands with its like
    for key in (key for column in columns for key in column):
        groups.setdefault(key[0], {})[key] = None
    keys = [key for group in groups.values() for key in group]
    rows = [[*key, *(column.get(key, MISSING) for column in columns)] for key in keys]
    return Table([*names, *runs], rows, title=title, num_names=len(names))


def _tested(runs: Sequence[ComparedRun]) -> Table | None:
    """Models that `test` has measured, and those of other runs beside them, against the first of all."""
    if not any(run.evaluations and not (run.results or run.experiments) for run in runs):
        return None
    columns, note = paired_columns([run.evaluations for run in runs], [_statistics(run) for run in runs])
    table = _table("Tested", ["measure", "figure"], [run.name for run in runs], columns)
    return table and replace(table, note=note)


def _statistics(run: ComparedRun) -> dict[str, Any]:
    """Settings of the run's paired tests, as far as its config is kept."""
    keys = {f"model.evaluator.init_args.{option}": name for option, name in _STATISTICS.items()}
    return {name: json.loads(run.config[key]) for key, name in keys.items() if key in run.config}


def _measured(results: "Results") -> Column:
    return {(row.label, name): cell for row in figure_rows(results) for name, cell in _figures(row).items()}


def _figures(row: "FigureRow") -> dict[str, str]:
    """What is told of a measure."""
    change, control, against = row.change, row.column["control"], row.column["change_against_control"]
    cells = {"baseline": number(change["before"]), "pruned": number(change["after"]), **change_cells(change)}
    cells |= {} if control is None else {"control": number(control["mean"])}
    return cells | ({} if against is None else {"p against control": p_value(against["p_value"])})


def _recipes(results: "Results") -> Column:
    """Of several behaviours, what each recipe does; the other tables tell of the first."""
    if (behaviours := results.get("behaviours")) is None:
        return {}
    table = recipe_table(behaviours["recipes"])
    return {(row[0], name): cell for row in table.rows for name, cell in zip(table.head[1:], row[1:], strict=True)}


def _overlaps(runs: Sequence[ComparedRun]) -> Table | None:
    """How far several behaviours agree, where a run has left nothing but that, and in the others beside it."""
    if not any(_of(run, BEHAVIOURS) for run in runs):
        return None
    told = [_of(run, BEHAVIOURS) or (run.results and run.results.get("behaviours")) for run in runs]
    found = [overlap_table(one["overlaps"]) if one else None for one in told]
    columns: list[Column] = [{} if one is None else _agreement(one) for one in found]
    table = _table("Do the behaviours agree?", ["behaviours", "figure"], [run.name for run in runs], columns)
    return table and replace(table, note=" ".join(dict.fromkeys(one.note for one in found if one is not None)))


def _agreement(table: Table) -> Column:
    """What is told of every two behaviours, and of so many neurons or weights."""
    what = table.head[1]
    return {
        (f"{row[0]} ({what}: {row[1]})", name): cell
        for row in table.rows
        for name, cell in zip(table.head[2:], row[2:], strict=True)
        if name not in _DERIVED
    }


def _selected(results: "Results") -> Column:
    """How neurons were scored and chosen."""
    base, relevance, selection = results["base_model"], results["relevance"], results["selection"]
    screen = selection.get("screen") or {}
    values = {
        "base model": base.get("id"),
        **{name: selection.get(name) for name in _SELECTION},
        **{name: relevance.get(name) for name in _RELEVANCE},
        "screen: candidates": screen.get("num_candidates"),
    }
    return {(name.replace("_", " "),): _cell(value) for name, value in values.items() if value is not None}


def _cell(value: Any) -> str:
    return _shortened([", ".join(map(str, value)) if isinstance(value, list) else str(value)])[0]


def _leaders(sweep: Data) -> Column:
    """Of each price the selection that leads, and what it does."""
    rows, at_prices = sweep.get("table", []), sweep.get("at_price", [])
    if not at_prices:
        return {}
    price = prices_of(rows)[0]
    cells: dict[tuple[str, ...], str] = {}
    for row in (row for row in first_at_prices(at_prices) if row["is_leader"]):
        figures = {"selection": row["label"], str(rows[0]["attribute"]): percent(row["confirmation_relative"]),
                   "p (Holm)": p_value(row["p_holm"]),
                   in_brackets(price): percent(row[f"{price.partition('_')[0]}_relative"])}  # fmt: skip
        cells |= {(f"+{row['price']:.0%}", name): cell for name, cell in figures.items()}
    return cells


def _compressed(compression: Data) -> Column:
    """Each model's price."""
    rows = compression.get("table", [])
    cells: dict[tuple[str, ...], str] = {}
    for price in prices_of(rows) if rows else []:
        name = in_brackets(price)
        cells[name, "baseline"] = number(rows[0][price])
        for amount, found in by_amount(rows).items():
            cells |= {(name, f"{method}, {amount}"): number(row.get(price)) for method, row in found.items()}
    return cells


def _circuits(runs: Sequence[ComparedRun]) -> list[Table | None]:
    """The areas of circuits, with what must be known of each run to read them: what was kept, and its cautions."""
    told = {run.name: _of(run, "circuit") for run in runs if _of(run, "circuit")}
    kept = [f"{name}: circuits of {data['granularity']}s." for name, data in told.items() if data.get("granularity")]
    doubts = [f"{name}: {said}" for name, data in told.items() for said in cautions(data)]
    names, tables = [run.name for run in runs], list[Table | None]()
    for title, keys, notes in (
        ("CPR / CMD", ("cpr", "cmd"), [*kept, *doubts]), ("area under accuracy", ("accuracy_area",), kept),
    ):  # fmt: skip
        table = _table(f"Circuits: {title}", ["asked", "method"], names, _areas(runs, keys))
        tables.append(table and replace(table, note=" ".join(notes)))
    return tables


def _areas(runs: Sequence[ComparedRun], keys: Sequence[str]) -> list[Column]:
    """The areas of each method's curve, under each ablation; of which task, where a run has several."""
    found = [_of(run, "circuit").get("areas", []) for run in runs]
    areas = [[row for row in rows if all(key in row for key in keys)] for rows in found]  # runs of before had two
    has_tasks = any(len({row["task"] for row in rows}) > 1 for rows in areas)

    def name(row: Mapping[str, Any]) -> tuple[str, str]:
        of_task = f" of {row['task']}" if has_tasks else ""
        return f"{ASKED[row['asked']]}{of_task}, {row['ablation']}", str(row["method"])

    return [{name(row): " / ".join(f"{row[key]:.2f}" for key in keys) for row in rows} for rows in areas]


def flat_config(value: Any, key: str = "") -> Iterable[tuple[str, str]]:
    """A config's values as text by dotted key; what lists name by class has the class's name, in whatever place.

    Args:
        value: The config, or a part of it.
        key: Where that part stands.
    """
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flat_config(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for name, item in _named(value).items():
            yield from flat_config(item, f"{key}.{name}")
    else:
        yield key, "(hidden)" if _SECRET.search(key) and value is not None else _plain(value)


def _named(items: Sequence[Any]) -> dict[str, Any]:
    """The items of a list by their class's name where they have one, otherwise by their place."""
    found: dict[str, Any] = {}
    for place, item in enumerate(items):
        kind = item.get("class_path") if isinstance(item, Mapping) else None
        name = str(place) if kind is None else str(kind).rpartition(".")[2]
        found[name if name not in found else f"{name}.{place}"] = item
    return found


def _plain(value: Any) -> str:
    """A value as YAML has it, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def config_table(runs: Sequence[ComparedRun]) -> Table:
    """The keys of the runs' configs whose values differ; what one run lacks altogether is named, not listed."""
    configs = [run.config for run in runs]
    keys, known = dict.fromkeys(key for config in configs for key in config), [config for config in configs if config]
    differing = [
        key
        for key in keys
        if len({config.get(key) for config in known}) > 1
        and all(f"{above}.class_path" in config for config in known for above in _classes_above(key))
    ]
    rows = [[key, *(config.get(key, MISSING) for config in configs)] for key in differing]
    without = [run.name for run in runs if not run.config]
    note = "" if rows else "No key differs."
    note = f"No config.yaml: {', '.join(without)}." if without else note
    return Table(["key", *(run.name for run in runs)], rows, note, "What differs in their configs")


def _classes_above(key: str) -> list[str]:
    """Where the classes stand whose options a key is one of."""
    parts = key.split(".init_args.")
    return [".init_args.".join(parts[:place]) for place in range(1, len(parts))]


def fitted(configs: Table, width: int) -> Table:
    """The table of `config_table` as a terminal has room for it: keys broken at their dots, long values shortened.

    Args:
        configs: The table.
        width: Of the terminal, in signs.
    """
    free, longest = width - _GAP * len(configs.head), max(len(row[0]) for row in [configs.head, *configs.rows])
    wanted = [min(_LONG, max(map(len, cells))) for cells in zip(*(row[1:] for row in configs.rows), strict=True)]
    of_keys = min(longest, max(width // 3, free - sum(wanted)))
    room = _LONG if sum(wanted) <= free - of_keys else max(_LEAST, (free - of_keys) // len(wanted))
    rows = [
        ["\n".join(_lines(row[0], of_keys)), *("\n".join(wrap(value, room)) for value in _shortened(row[1:], room))]
        for row in configs.rows
    ]
    return replace(configs, rows=rows, head=[configs.head[0], *(_stacked(name, room) for name in configs.head[1:])])


def _stacked(name: str, room: int) -> str:
    """A run's name as a head shows it, a line from each slash on: with more lines where one of these is too long."""
    return name if max(map(len, name.split("/"))) <= room else name.replace("_", "_/")


def _lines(key: str, width: int) -> list[str]:
    """A key on as many lines as it takes, each the beginning of another part."""
    lines = [""]
    for part in re.findall(r"[^.]+\.?", key):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _shortened(values: Sequence[str], room: int = _LONG) -> list[str]:
    """Long values by their two ends; whole where that would hide what differs."""
    kept = (room - 3) // 2
    short = [value if len(value) <= room else f"{value[:kept]}...{value[-kept:]}" for value in values]
    return short if len(set(short)) == len(set(values)) else list(values)


def check_output(path: Path) -> None:
    """Refuse a file of no known format.

    Raises:
        ValueError: Its name ends otherwise.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"`--output` must end with {' or '.join(FORMATS)}, got {path}.")


def write_comparison(tables: Sequence[Table], path: Path) -> Path:
    """Write the tables, with the cells as they are shown: as CSV below each other, or as JSON.

    Args:
        tables: Of runs side by side.
        path: Ends with .csv or .json.

    Returns:
        The path.
    """
    if path.suffix == ".json":
        content = [asdict(table) for table in tables]
        return write_json(path, [{key: one[key] for key in ("title", "head", "rows", "note")} for one in content])
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    runs = list(tables[-1].head[1:])
    writer.writerow(["table", "row", "figure", *runs])
    for table in tables:
        for row in table.rows:
            names = [*row[: table.num_names], ""][:2]
            writer.writerow([table.title, *names, *row[table.num_names :]])
    return write_text(path, buffer.getvalue())
