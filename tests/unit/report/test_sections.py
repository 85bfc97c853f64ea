"""Every kind of experiment that a run directory may hold: on the page, and in `inspect`."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sparc3_lightning.files import write_json
from sparc3_lightning.pruning.select_weights import select_weights
from sparc3_lightning.report.behaviour_tables import overlap_table
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.read import inspect_path
from sparc3_lightning.report.rows import Table
from sparc3_lightning.report.sections import KINDS, Kind, Section, figure_files, section_of
from sparc3_lightning.report.terminal import print_report
from sparc3_lightning.report.trial_tables import cells_table, first_at_prices, models_table
from sparc3_lightning.runs.unfinished import mark_unfinished
from tests.unit.evaluation.fake_run import make_behaviours_run, make_weight_run
from tests.unit.report.conftest import write_behaviours_dir, write_run
from tests.unit.report.test_page import Page
from tests.unit.report.trial_runs import SVG, compression_rows, sweep_rows, write_compression_dir, write_sweep_dir


def inspected(path: Path) -> str:
    file = io.StringIO()
    print_report(inspect_path(path, top=5), Console(file=file, width=100, markup=False, highlight=False))
    return file.getvalue()


@pytest.mark.parametrize("name", ["sweep", "compression"])
def test_an_experiment_alone_has_a_page(name: str, tmp_path: Path) -> None:
    {"sweep": write_sweep_dir, "compression": write_compression_dir}[name](tmp_path / name)
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n", encoding="utf-8")
    write_json(tmp_path / "scores" / "general" / "manifest.json", {"format_version": 1, "base_model": {"id": "<b>m"}})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert f"{name.capitalize()} of <b>m" in text
    assert "seed_everything: 0" in text
    assert "Before and after" not in text
    assert [kind for kind, attributes in page.tags if kind == "nav"] == []
    heads = [attributes for kind, attributes in page.tags if kind == "th"]
    assert {attributes.get("scope") for attributes in heads} == {"row", "col"}
    images = [attributes for kind, attributes in page.tags if kind == "img"]
    assert len(images) == len(figure_files(name, tmp_path / name)) == 2
    assert all(attributes["alt"] for attributes in images)
    assert sum(attributes.get("class") == "wide" for kind, attributes in page.tags if kind == "figure") == 1
    tables = sum(kind == "table" for kind, _ in page.tags)
    scrolled = [attributes for _, attributes in page.tags if attributes.get("class") == "scroll"]
    assert len(scrolled) == tables + 1
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in scrolled)


def test_all_kinds_are_on_one_page_and_in_one_listing(run_dir: Path) -> None:
    write_sweep_dir(run_dir / "sweep")
    write_compression_dir(run_dir / "compression")
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first
    page = Page(first.decode())
    text = " ".join(page.text.split())
    for said in ("2 neurons removed from made-up/model", "Before and after", "At a price in perplexity (sliding)",
                 "Perplexity (disjoint); baseline 10.00"):  # fmt: skip
        assert said in text, said
    targets = {attributes["href"] for kind, attributes in page.tags if kind == "a"}
    assert targets == {"#verdict", "#sweep", "#compression", "#provenance"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {target.removeprefix("#") for target in targets if target} <= set(ids)
    shown = inspected(run_dir)
    for said in ("Pruned against baseline", "Sweep\n", "Compression\n", "Written to"):
        assert said in shown, said


@pytest.mark.parametrize("file", ["", "table.csv", "results.json", "table.parquet"])
def test_an_experiment_s_directory_and_files_are_known(file: str, tmp_path: Path) -> None:
    write_compression_dir(tmp_path / "compression")
    for name in ("results.json", "table.parquet"):
        (tmp_path / "compression" / name).touch()
    report = inspect_path(tmp_path / "compression" / file, top=5)
    assert (report["kind"], report["table"][1]["method"]) == ("compression", "lrp_signed")
    shown = inspected(tmp_path / "compression" / file).splitlines()
    assert ["50%", "9.50*", "10.00"] in [line.split() for line in shown]
    json.dumps(report, allow_nan=False)


def test_a_run_without_results_says_what_it_has(tmp_path: Path) -> None:
    write_sweep_dir(tmp_path / "sweep")
    report = inspect_path(tmp_path, top=5)
    assert (report["kind"], report["results"], report["recipe"]) == ("run", None, None)
    assert [found["kind"] for found in report["experiments"]] == ["sweep"]
    assert "leads" in inspected(tmp_path)


def test_behaviours_alone_are_shown_with_what_they_share(tmp_path: Path) -> None:
    directory, wanted = write_behaviours_dir(tmp_path / "version_0"), overlap_table(make_behaviours_run().comparison)
    report = inspect_path(directory, top=5)
    assert (report["kind"], report["results"], report["recipe"]["num_neurons"]) == ("run", None, 2)
    (found,) = report["experiments"]
    assert found["recipes"] == [{"recipe": name, "num_neurons": 2} for name in ("toxic", "insult")]
    (table,) = section_of("behaviours", found).tables
    assert table == wanted, "as the run has printed it"
    json.dumps(report, allow_nan=False)
    shown = inspected(directory)
    parts = ["toxic (2 neurons), insult (2 neurons)", "were not evaluated", "toxic, insult", "Recipe: 2 neurons",
             f"Written to {directory}"]  # fmt: skip
    assert (places := [shown.index(part) for part in parts]) == sorted(places)
    assert "All tables and figures" not in shown
    alone = inspected(directory / "behaviours_overlap.csv")
    assert alone == shown[shown.index("Behaviours\n") : shown.index("Recipe: ")]


def test_behaviours_alone_have_a_page(tmp_path: Path) -> None:
    directory = write_behaviours_dir(tmp_path / "version_0")
    first = write_report(directory).read_bytes()
    assert write_report(directory).read_bytes() == first
    page, sizes = Page(first.decode()), ("2", "8")
    text = " ".join(page.text.split())
    for said in ("Behaviours of made-up/model", "insult (2 neurons)", "Do the behaviours share neurons?", "first 8"):
        assert said in text, said
    for unsaid in ("Before and after", "All below is of the first recipe"):
        assert unsaid not in text, unsaid
    figures = [attributes["id"] for kind, attributes in page.tags if kind == "figure"]
    assert figures == [f"behaviours_overlap_{size}" for size in sizes]
    assert all((directory / "figures" / f"{name}.png").is_file() for name in figures)


def test_results_tell_of_behaviours_themselves(tmp_path: Path) -> None:
    """A run with an evaluation is shown as ever; its file alone is no recipe, and says nothing of a lack."""
    directory = write_run(make_behaviours_run(), tmp_path / "run")
    before, page = inspected(directory), write_report(directory).read_bytes()
    shutil.copy(write_behaviours_dir(tmp_path / "alone") / "behaviours_overlap.csv", directory)
    report = inspect_path(directory, top=5)
    assert (report["results"]["behaviours"]["overlaps"] != [], report["experiments"]) == (True, [])
    assert inspected(directory).startswith(before[: before.index("Written to")])
    assert write_report(directory).read_bytes() == page
    alone = inspected(directory / "behaviours_overlap.csv")
    assert "toxic, insult" in alone
    assert "not evaluated" not in alone


def test_behaviours_of_a_run_that_goes_on_wait_for_its_end(tmp_path: Path) -> None:
    directory = write_behaviours_dir(tmp_path / "run")
    mark_unfinished(directory)
    with pytest.raises(FileNotFoundError, match="is not finished"):
        write_report(directory)
    assert inspect_path(directory, top=5)["kind"] == "recipe"
    assert "not evaluated" not in inspected(directory / "behaviours_overlap.csv")


def test_a_run_stopped_while_it_evaluated_is_not_called_one_that_did_not(tmp_path: Path) -> None:
    directory = write_behaviours_dir(tmp_path / "run")
    (directory / "recipes" / "insult" / "pruned_eval.json").touch()
    assert "not evaluated" not in inspected(directory)


def test_recipes_of_weights_are_counted_without_their_indices(tmp_path: Path) -> None:
    directory, run = write_behaviours_dir(tmp_path / "run"), make_weight_run()
    (directory / "recipes" / "shared").mkdir()
    assert run.differential is not None
    select_weights(run.differential, 0.01).save(directory / "recipes" / "shared")
    (directory / "recipes" / "shared" / "pruned_weights.safetensors").unlink()
    (directory / "recipes" / "nothing_left").mkdir()
    recipes = inspect_path(directory / "behaviours_overlap.csv", top=5)["recipes"]
    num = run.recipe.num if run.recipe is not None else 0
    assert [row["recipe"] for row in recipes] == ["toxic", "insult", "shared"]
    assert recipes[-1]["num_weights"] == num > 0
    assert f"shared ({num} weights)" in " ".join(inspected(directory).split())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("behaviours_overlap.csv", "a,b\n1,2\n", r"overlap\.csv is no table of the behaviours: KeyError"),
        ("behaviours_overlap.csv", "a,b\n", r"overlap\.csv is no table of the behaviours: IndexError"),
        ("recipes/insult/pruned_neurons.json", "{}", r"insult/pruned_neurons\.json is no recipe: .* `num_neurons`"),
        ("recipes/insult/pruned_neurons.json", "{", r"insult/pruned_neurons\.json, line 1: no readable recipe"),
    ],
)
def test_damaged_behaviours_are_named(file: str, content: str, message: str, tmp_path: Path) -> None:
    directory = write_behaviours_dir(tmp_path / "run")
    (directory / file).write_text(content, encoding="utf-8")
    for act in (write_report, lambda path: inspect_path(path, top=5)):
        with pytest.raises(ValueError, match=message):
            act(directory)


def test_a_compressed_model_says_what_was_done(tmp_path: Path) -> None:
    content = {"base_model": {"id": "made-up/model"}, "options": {"method": "lrp", "sparsity": 0.5}, "share": 0.5}
    write_json(tmp_path / "compression.json", content)
    for path in (tmp_path, tmp_path / "compression.json"):
        shown = inspected(path)
        assert "Compressed model: 50.0% of the weights" in shown
        assert ["sparsity", "0.5"] in [line.split() for line in shown.splitlines()]
    write_json(tmp_path / "compression.json", {"base_model": {}})
    with pytest.raises(ValueError, match=r"compression\.json must say how a model was compressed, .* no `options`"):
        inspect_path(tmp_path, top=5)


def test_what_is_no_experiment_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no behaviours_overlap\.csv or sweep/table\.csv or .* or circuit/table\.csv either"
    ):
        write_report(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "at_price.csv").write_text("price\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"no table at .*sweep/table\.csv: the run that writes it has not come"):
        inspect_path(tmp_path / "sweep" / "at_price.csv", top=5)
    (tmp_path / "sweep" / "table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    for act in (write_report, lambda path: inspect_path(path, top=5)):
        with pytest.raises(ValueError, match=r"sweep/table\.csv is no table of the sweep"):
            act(tmp_path)


def test_a_further_kind_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def section(data: Any) -> Section:
        return Section("Graph", [f"{data['num']} edges."], [Table(["edge", "effect"], [["a", "0.5"]], title="Edges")])

    def found(directory: Path) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((directory / "graph.json").read_text("utf-8"))
        return content

    monkeypatch.setitem(KINDS, "graph", Kind(found, section, {}, "graph.json"))
    write_json(tmp_path / "graph" / "graph.json", {"num": 3})
    assert "3 edges." in inspected(tmp_path)
    assert "3 edges." in write_report(tmp_path).read_text(encoding="utf-8")


def test_figures_come_in_the_page_s_order_each_with_which_it_is(tmp_path: Path) -> None:
    for name in ("layers_16", "layers_4", "at_price", "unknown"):
        (tmp_path / "figures").mkdir(exist_ok=True)
        (tmp_path / "figures" / f"{name}.svg").write_text(SVG, encoding="utf-8")
    found = figure_files("sweep", tmp_path)
    assert [path.stem for path, _ in found] == ["at_price", "layers_4", "layers_16"]
    assert found[1][1].endswith("neurons are. (4)")


def test_tables_hold_what_the_rows_say() -> None:
    rows = sweep_rows()
    cells = {row[0]: row[1:] for row in cells_table(rows).rows}
    assert list(cells["lrp, k 4, global"]) == ["20.20", "+1.0%", "0.400", "-20.0%", "-0.150, -0.050", "0.004", "0.008"]
    assert list(cells["baseline"]) == ["20.00", "-", "0.500", "-", "-", "-", "-"]
    assert "lrp, k 16, global" not in cells, "it has failed"
    models = {row[0]: row[1:] for row in models_table(compression_rows()).rows}
    assert list(models["wanda, 50%"]) == ["50.0%", "10.00", "+0.0%", "-1.0%, +1.0%", "0.900"]


def test_a_page_says_no_more_than_it_knows(tmp_path: Path) -> None:
    """One draw of random neurons spans nothing, and a directory of tables alone says not how they were made."""
    write_sweep_dir(tmp_path / "sweep")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Random neurons change insult by -20.0%." in text
    assert "How it was made" not in text


def test_what_has_failed_or_was_not_measured_is_left_out() -> None:
    """All cells of a sweep by text alone have failed, and all compressed models."""
    text_only = {
        name: value for name, value in sweep_rows()[0].items() if not name.startswith(("insult", "attr", "beh"))
    }
    sweep = section_of("sweep", {"table": [text_only, sweep_rows()[-1]], "at_price": []})
    assert list(sweep.lines) == [
        "1 cells, 1 different selections, 1 failed.", "Failed: lrp, k 16, global: RuntimeError: <i>broken</i>",
    ]  # fmt: skip
    assert (sweep.tables, [list(row) for row in sweep.details[0].rows]) == ([], [["baseline"]])
    broken = {**compression_rows()[1], "status": "failed", "error": "ValueError: no", "perplexity_disjoint": None}
    rows = [compression_rows()[0], {name: value for name, value in broken.items() if "disjoint_" not in name}]
    compression = section_of("compression", {"table": rows})
    assert compression.lines[1] == "Failed: lrp_signed, 50%: ValueError: no"
    assert (compression.tables, [row[0] for row in compression.details[0].rows]) == ([], ["baseline"])


def test_the_leader_comes_first_and_one_other_follows() -> None:
    def row(label: str, leads: bool, options: str = "all") -> dict[str, Any]:
        return {"price": 0.1, "options": options, "label": label, "is_leader": leads}

    rows = [row("p", True, "plain"), row("a", False), row("b", False), row("c", True)]
    assert [one["label"] for one in first_at_prices(rows)] == ["c", "a"]
