"""Circuits as a user runs them: the tiny config, its files, the page and `inspect`; what cannot be asked is refused."""

import csv
import signal
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest

from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.main import main
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.read import inspect_path
from sparc3_lightning.report.side_by_side import read_runs
from tests.integration.test_resume import die, ended, predict_and_die, start
from tests.runs import QUIET, ROOT, board, command, log_dir, read, written

pytestmark = QUIET

CIRCUIT = "configs/tiny/circuit.yaml"
DRAWS = {"ioi_seed0": "ioi", "ioi_seed1": "ioi", "objects": "objects"}
FIRST, SECOND, OTHER = DRAWS
METHODS = {"lrp_signed", "lrp_signed, magnitude", "lrp", "gradient", "gradient_signed", "gradient_signed, magnitude",
           "activation", "magnitude", "random"}  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return log_dir(command("predict", CIRCUIT, tmp_path_factory.mktemp("circuit")))


def test_every_circuit_is_asked_its_own_and_held_out_samples(run: Path) -> None:
    table = rows(run / "circuit" / "table.csv")
    assert {row["method"] for row in table} == METHODS | {"none", "all"}
    asked = {(row["draw"], row["ablation"], row["method"], row["share"], row["asked"]) for row in table}
    assert len(asked) == len(table) == 3 * 2 * 3 * (len(METHODS) * 5 + 2)
    assert {(row["draw"], row["task"]) for row in table} == set(DRAWS.items())
    whole = {row["logit_difference"] for row in table if row["method"] == "all" or float(row["share"]) == 1}
    assert len(whole) == 5, "one model, asked three draws and what is held out of two tasks"
    held_out = {(row["task"], row["logit_difference"]) for row in table
                if (row["method"], row["asked"]) == ("all", "held_out")}  # fmt: skip
    assert sorted(task for task, _ in held_out) == ["ioi", "objects"], "each draw is asked its own task's"
    areas = rows(run / "circuit" / "areas.csv")
    assert {(row["task"], row["num_draws"]) for row in areas} == {("ioi", "2"), ("objects", "1")}
    assert len(areas) == 2 * len(METHODS) * 3 * 2
    about = read(run / "circuit" / "circuit.json")
    assert about["tasks"] == {"ioi": [FIRST, SECOND], "objects": [OTHER]}
    assert list(about["samples"]) == [*DRAWS, "evaluation_task.ioi", "evaluation_task.objects"]
    assert len(about["ends"]) == 3 * 3 * 2, "by draw, ablation and what was asked"
    found = {(row["draw"], row["ablation"], row["asked"], row["method"]): float(row["logit_difference"])
             for row in table if row["method"] in ("none", "all")}  # fmt: skip
    assert {row["empty_low"] <= row["empty"] <= row["empty_high"] for row in about["ends"]} == {True}
    assert {float(row["accuracy_area_low"]) <= float(row["accuracy_area"]) <= float(row["accuracy_area_high"])
            for row in areas} == {True}  # fmt: skip
    best = [row for row in areas if float(row["cmd_behind"]) == 0]
    assert len({(row["task"], row["ablation"], row["asked"]) for row in best}) == 2 * 3 * 2
    for row in about["ends"]:
        whole, empty = (found[row["draw"], row["ablation"], row["asked"], method] for method in ("all", "none"))
        assert row["difference"] == pytest.approx(whole - empty, abs=1e-6)


def test_an_ablation_and_a_draw_make_a_difference(run: Path) -> None:
    empty = {(row["draw"], row["ablation"]): row["logit_difference"]
             for row in rows(run / "circuit" / "table.csv")
             if (row["method"], row["asked"]) == ("none", "held_out")}  # fmt: skip
    assert len({empty[FIRST, ablation] for ablation in ("zero", "mean", "corrupted")}) == 3
    assert empty[FIRST, "zero"] == empty[SECOND, "zero"], "nothing of the draw is in it"
    assert empty[FIRST, "mean"] != empty[SECOND, "mean"], "means are the draw's own"
    parts = rows(run / "circuit" / "parts.csv")
    assert {(row["layer"], row["kind"], row["num"]) for row in parts} == {(str(n), "neurons", "64") for n in range(3)}


def test_draws_tasks_and_methods_are_told_apart(run: Path) -> None:
    overlaps = rows(run / "circuit" / "overlap.csv")
    found = Counter((row["what"], row["task"], row["other_task"]) for row in overlaps)
    pairs = len(METHODS) * (len(METHODS) - 1) // 2
    assert found == {
        ("draws", "ioi", "ioi"): len(METHODS), ("tasks", "ioi", "objects"): 2 * len(METHODS),
        ("methods", "ioi", "ioi"): 2 * pairs, ("methods", "objects", "objects"): pairs,
    }  # fmt: skip


def test_inspect_and_the_page_show_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["inspect", str(run)])
    shown = " ".join(capsys.readouterr().out.split())
    for said in ("Circuits", "Areas, asked held-out samples of objects", "Area under accuracy of ioi", "CPR",
                 "How far behind the best, asked held-out samples of objects", "95% interval over the samples asked",
                 "by its own choice", "Do the draws' circuits agree?", "Do the tasks share a circuit?"):  # fmt: skip
        assert said in shown
    assert "means nothing under zero, mean, corrupted" in shown, "a random model does no task"
    assert "Areas, asked held-out samples of ioi" in (run / "report.html").read_text()
    assert {"figures/faithfulness.png", "figures/accuracy.svg"} <= set(written(run / "circuit"))


def test_tensorboard_shows_areas_and_curves(run: Path) -> None:
    events = board(run)
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("circuit_")}
    assert len(tags) == 3 * 2 * len(METHODS) * 3 * 2
    areas = {(row["task"], row["asked"], row["ablation"], row["method"]): row
             for row in rows(run / "circuit" / "areas.csv")}  # fmt: skip
    (found,) = events.Scalars("circuit_cpr/objects/held_out/mean/lrp_signed")
    assert found.value == pytest.approx(float(areas["objects", "held_out", "mean", "lrp_signed"]["cpr"]), rel=1e-5)
    assert {"circuit/faithfulness", "circuit/accuracy"} <= set(events.Tags()["images"])


def test_what_was_measured_is_read_again(run: Path, tmp_path: Path) -> None:
    again = log_dir(command("predict", CIRCUIT, tmp_path, f"--model.trials_dir={run / 'trials'}"))
    assert not (again / "trials").exists()
    assert rows(again / "circuit" / "table.csv") == rows(run / "circuit" / "table.csv")


def test_a_run_killed_among_its_circuits_goes_on_after_them(run: Path, tmp_path: Path) -> None:
    """Killed while a circuit is asked: the finished ones are not asked again, and the tables are those of one go."""
    asks = "sparc3_lightning.evaluation.evaluator.Evaluator.evaluate"
    assert ended(start(predict_and_die, ROOT / CIRCUIT, tmp_path, asks, 40, die, ())) == -signal.SIGKILL
    killed = tmp_path / "tiny_circuit" / "version_0"
    done = {path: path.stat().st_mtime_ns for path in (killed / "trials").glob("*.json")}
    assert len(done) == 39
    assert not (killed / "circuit").exists()
    told = rf"the run in {killed} is not finished: .* the same command goes on"
    for show in (lambda: inspect_path(killed, 5), lambda: write_report(killed), lambda: read_runs([killed, run])):
        with pytest.raises(FileNotFoundError, match=told):
            show()
    with pytest.raises(FileNotFoundError, match=r"Score directories below it: .*scores/ioi_seed0"):
        inspect_path(killed, 5)
    with mock.patch(asks, autospec=True, side_effect=Evaluator.evaluate) as asked:
        assert log_dir(command("predict", CIRCUIT, tmp_path)) == killed
    assert asked.call_count == len(list((run / "trials").glob("*.json"))) - len(done)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for name in ("table", "areas", "parts", "overlap"):
        assert rows(killed / "circuit" / f"{name}.csv") == rows(run / "circuit" / f"{name}.csv"), name


@pytest.mark.parametrize("scope", ["global", "row"])
def test_weights_are_a_circuit_too(scope: str, tmp_path: Path) -> None:
    options = ["--model.granularity=weight", "--model.modules=all"]
    overlay = tmp_path / "zero.yaml"
    overlay.write_text(
        "trainer:\n  callbacks:\n"
        "    - class_path: callbacks.RelevanceCallback\n    - class_path: callbacks.ScoreWriter\n"
        "    - class_path: callbacks.BaselineCallback\n      init_args: {methods: [wanda, activation, magnitude]}\n"
        "    - class_path: callbacks.CircuitCallback\n"
        f"      init_args: {{shares: [0.1], described: 0.1, scope: {scope}}}\n"
    )
    with pytest.warns(UserWarning, match=r"score neurons alone: \['activation'\]"):
        run = log_dir(command("predict", CIRCUIT, tmp_path, "--config", str(overlay), *options))
    parts = rows(run / "circuit" / "parts.csv")
    assert len({row["kind"] for row in parts}) == 7
    total = sum(int(row["num"]) for row in parts if (row["draw"], row["method"]) == (FIRST, "lrp_signed"))
    kept = sum(int(row["num_kept"]) for row in parts if (row["draw"], row["method"]) == (FIRST, "lrp_signed"))
    assert kept == pytest.approx(0.1 * total, rel=0.05 if scope == "row" else 1e-3)
    (share,) = {float(row["share_kept"]) for row in rows(run / "circuit" / "table.csv") if row["share"] == "0.1"}
    assert share == pytest.approx(kept / total, rel=1e-6), "of a row of 48 weights 5 stay"
    assert (share == pytest.approx(0.1, rel=1e-3)) == (scope == "global")
    assert {row["method"] for row in parts} == {"lrp_signed", "lrp_signed, magnitude", "wanda", "magnitude", "random"}
    with pytest.raises(ValueError, match=r"`ablations` of weights can only be \['zero'\]"):
        command("predict", CIRCUIT, tmp_path, *options)


def test_what_is_no_task_is_refused(tmp_path: Path) -> None:
    given = "{path: configs/tiny/general.txt, num_samples: 4, length: 8}"
    sets = f"{{plain: {{class_path: sparc3_lightning.data.C4, init_args: {given}}}}}"
    options = ["--data.evaluation_task=null", f"--data.behaviours={sets}"]
    with pytest.raises(ValueError, match=r"`data\.behaviours\.plain` must name a right and a wrong token"):
        command("predict", CIRCUIT, tmp_path, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.target=last_token_argmax"], r"got `target: last_token_argmax`\. Set `model\.target: next_token`"),
        (
            ["--data.behaviours.ioi_seed1.init_args.num_samples=8"],
            r"one set for each task of \['ioi_seed0', 'ioi_seed1', 'objects'\], by its name, got \['ioi', 'objects'\]",
        ),
        (
            ["--data.evaluation_task.ioi.init_args.part=attribution"],
            r"`data\.evaluation_task\.ioi` must hold no sample that scores are made of, and none",
        ),
        (
            ["--data.evaluation_task.ioi.init_args.part=all", "--data.evaluation_task.ioi.init_args.seed=7"],
            r"none of their templates, got \d+ of 16\. Set `part: evaluation` there and `part: attribution` in",
        ),
        (["--model.modules=['*.0.mlp.up_proj']"], "a circuit of neurons needs scores of all of them, got none of"),
    ],
)
def test_what_would_be_another_question_is_refused(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        command("predict", CIRCUIT, tmp_path, *options)


def test_few_samples_are_warned_of(tmp_path: Path) -> None:
    few = [
        "--data.behaviours.objects.init_args.num_samples=6",
        "--data.evaluation_task.objects.init_args.num_samples=7",
    ]
    told = r"6 of `data\.behaviours\.objects`, 7 of `data\.evaluation_task\.objects`\): intervals over fewer than 16"
    with (
        mock.patch("sparc3_lightning.module.SparC3Module.predict_step", side_effect=RuntimeError("enough")),
        pytest.warns(UserWarning, match=told),
        pytest.raises(RuntimeError, match="enough"),
    ):
        command("predict", CIRCUIT, tmp_path, *few)


def test_twins_are_needed_where_they_take_the_place(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    openings = ("old", "young", "silly", "lazy", "heavy", "clean", "blue", "long")
    path.write_text("".join(
        f'{{"prompt": "the {word}", "right": "map", "wrong": "boat"}}\n' for word in openings
    ))  # fmt: skip
    task = f"{{class_path: sparc3_lightning.data.TaskFile, init_args: {{path: {path}, num_samples: 4}}}}"
    with pytest.raises(
        ValueError, match=r"needs a corrupted twin of each sample, got none of `data\.behaviours\.mine`"
    ):
        command("predict", CIRCUIT, tmp_path, f"--data.behaviours={{mine: {task}}}", "--data.evaluation_task=null")


@pytest.mark.parametrize("method", ["auroc", "value_vectors"])
def test_methods_that_rank_by_one_behaviour_are_named(method: str, tmp_path: Path) -> None:
    """Each draw of a task is a behaviour of its own."""
    overlay = tmp_path / "methods.yaml"
    overlay.write_text(
        "trainer:\n  callbacks:\n"
        "    - class_path: callbacks.RelevanceCallback\n    - class_path: callbacks.ScoreWriter\n"
        f"    - class_path: callbacks.BaselineCallback\n      init_args: {{methods: [activation, {method}]}}\n"
        "    - class_path: callbacks.CircuitCallback\n"
    )
    expected = rf"got \['ioi_seed0', .*leave \['{method}'\] out of `BaselineCallback\.init_args\.methods`: such"
    with pytest.raises(ValueError, match=expected):
        command("predict", CIRCUIT, tmp_path, "--config", str(overlay))


@pytest.mark.parametrize("shares", [[0.0], [1.5], [-0.1]])
def test_shares_are_checked(shares: list[float]) -> None:
    from callbacks import CircuitCallback

    with pytest.raises(ValueError, match="`shares` must lie above 0"):
        CircuitCallback(shares)
