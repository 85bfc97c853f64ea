"""`sparc3 predict --config configs/tiny/behaviours.yaml`: several behaviours in one run, and recipes of every kind."""

import csv
import re
import shutil
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
import yaml
from torch import Tensor

from sparc3_lightning.main import main
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.read import read_run
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.runs import BRIEF, QUIET, ROOT, board, command, log_dir, read
from tests.tiny_files import typed

pytestmark = QUIET

BEHAVIOURS = "configs/tiny/behaviours.yaml"
RECIPES = ["names", "scorn", "shared", "all", "specific_to_scorn"]


GIVEN = (
    r'"toxicity": \{',  # in JSON: what a scorer said, whatever it judges
    r'"toxicity_protocol": "custom"',  # in a trial's key: an option of the evaluator
    r'"class": "RealToxicityPrompts"',  # in the results: the class that reads this config's evaluation prompts,
    r'"attribute": "toxicity"',  # and the column that it chooses them by
)
"""Names of options, classes and keys that readers of these files know."""


class Done(NamedTuple):
    """A run's directory, and what a terminal showed of it, warnings and progress too."""

    directory: Path
    shown: str
    warned: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    home = tmp_path_factory.mktemp("behaviours")
    run = typed("predict", "--config", BEHAVIOURS, f"--trainer.logger.init_args.save_dir={home}", *BRIEF, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return Done(home / "tiny_behaviours" / "version_0", run.stdout, run.stderr)


@pytest.fixture(scope="module")
def run(done: Done) -> Path:
    return done.directory


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def scores_of(directory: Path) -> Tensor:
    return torch.stack([score.double() for score in ScoreSet.load(directory).scores.values()])


def test_every_recipe_is_chosen_from_its_own_contrast(run: Path) -> None:
    scores, home = run / "scores", run / "scores" / "differential"
    assert sorted(path.name for path in home.iterdir()) == sorted(RECIPES)
    ordinary, names, scorn = (scores_of(scores / name) for name in ("ordinary", "names", "scorn"))
    wanted = {"names": ordinary.abs() - names, "scorn": ordinary.abs() - scorn}
    wanted["shared"] = torch.maximum(*wanted.values())
    wanted["all"] = (wanted["names"] + wanted["scorn"]) / 2
    wanted["specific_to_scorn"] = torch.maximum(wanted["scorn"], names.abs() - scorn)
    for name, contrast in wanted.items():
        torch.testing.assert_close(scores_of(home / name), contrast, atol=1e-7, rtol=1e-6)
        found = rows_of(run / "recipes" / name / "screen.csv")
        first = contrast.flatten().argsort(stable=True)[:20]
        assert {(int(row["layer"]), int(row["index"])) for row in found} == {
            divmod(int(place), contrast.shape[1]) for place in first
        }
        chosen = {(int(row["layer"]), int(row["index"])) for row in found if row["chosen"]}
        assert chosen == {*Recipe.load(run / "recipes" / name).neurons}


def test_recipes_for_several_are_screened_by_the_words_of_all(run: Path) -> None:
    """As many words as both have; a neuron of the specific recipe must not lower the other's words either."""
    effects = {
        name: {(row["layer"], row["index"]): row for row in rows_of(run / "recipes" / name / "screen.csv")}
        for name in RECIPES
    }
    both = effects["names"].keys() & effects["scorn"].keys() & effects["all"].keys()
    assert both
    for neuron in both:  # eight words each, of which every second proposes
        one, other, joint = (effects[name][neuron] for name in ("names", "scorn", "all"))
        for column in ("effect", "confirmed", "ordinary"):
            mean = (float(one[column]) + float(other[column])) / 2
            assert float(joint[column]) == pytest.approx(mean, abs=1e-6)
    alone = effects["specific_to_scorn"].keys() & effects["scorn"].keys() & effects["all"].keys()
    assert alone
    for neuron in alone:  # 16 ordinary words and the other behaviour's eight, which are half of all
        own, plain, joint = (effects[name][neuron] for name in ("specific_to_scorn", "scorn", "all"))
        of_others = mean_effect(joint) * 2 - mean_effect(plain)
        wanted = (16 * float(plain["ordinary"]) + 8 * of_others) / 24
        assert float(own["ordinary"]) == pytest.approx(wanted, abs=1e-6)
        assert float(own["effect"]) == pytest.approx(float(plain["effect"]), abs=1e-6)


def mean_effect(row: dict[str, str]) -> float:
    return (float(row["effect"]) + float(row["confirmed"])) / 2


def test_the_run_itself_is_its_first_recipe_s(run: Path) -> None:
    first = run / "recipes" / RECIPES[0]
    assert Recipe.load(run) == Recipe.load(first)
    for name in ("pruned_eval.json", "control_eval.json"):
        assert read(run / name) == read(first / name)
    results = read(run / "experiment_results.json")
    behaviours = results.pop("behaviours")
    assert results == read(first / "experiment_results.json")
    assert results["format_version"] == 4
    assert (results["selection"]["recipe"], results["selection"]["behaviours"]) == ("names", ["names"])
    assert list(behaviours) == ["overlaps", "recipes"]
    read_run(run)


def test_recipes_stand_side_by_side(run: Path) -> None:
    rows = read(run / "experiment_results.json")["behaviours"]["recipes"]
    assert list(dict.fromkeys(row["recipe"] for row in rows)) == RECIPES
    assert [row["recipe"] for row in rows if row["column"] == "rudeness/mean"] == RECIPES
    for row in rows:
        own = read(run / "recipes" / row["recipe"] / "experiment_results.json")
        column = own["columns"][row["column"]]
        assert (row["baseline"], row["pruned"]) == (column["baseline"], column["pruned"])
        assert row["p_value"] == column["change"]["p_value"]
        assert row["p_against_control"] == column["change_against_control"]["p_value"]
        assert row["num_neurons"] == len(Recipe.load(run / "recipes" / row["recipe"]).neurons)
    stored = rows_of(run / "behaviours.csv")
    assert [(row["recipe"], row["column"]) for row in stored] == [(row["recipe"], row["column"]) for row in rows]


def test_the_behaviours_are_compared(run: Path) -> None:
    rows = rows_of(run / "behaviours_overlap.csv")
    assert [(row["what"], row["num_neurons"]) for row in rows] == [
        ("differential", "6"), ("differential", "20"), ("recipe", ""),
    ]  # fmt: skip
    first = [
        {(row["layer"], row["index"]) for row in rows_of(run / "recipes" / name / "screen.csv")} for name in RECIPES[:2]
    ]
    assert int(rows[1]["num_shared"]) == len(first[0] & first[1])
    recipes = [{*Recipe.load(run / "recipes" / name).neurons} for name in RECIPES[:2]]
    assert int(rows[2]["num_shared"]) == len(recipes[0] & recipes[1])
    texts = [{*read(run / "scores" / name / "manifest.json")["data"]["sample_ids"]} for name in RECIPES[:2]]
    assert {int(row["num_shared_texts"]) for row in rows} == {len(texts[0] & texts[1])} == {0}
    assert {int(row["num_shared_general"]) for row in rows} == {16}, "both are contrasted with the same"


def test_every_recipe_has_a_page_and_the_run_one_of_all(done: Done) -> None:
    page = (done.directory / "report.html").read_text()
    assert "Behaviours side by side" in page
    assert "Do they share neurons?" in page
    assert f"<h1>{len(RECIPES)} recipes of 2 behaviours, each removed from" in page
    assert f"All below is of the first recipe, {RECIPES[0]};" in page
    assert all(f'<th scope="row">{name}</th>' in page for name in RECIPES)
    assert 'id="behaviours_overlap_6"' in page
    for name in RECIPES:
        own = done.directory / "recipes" / name
        before = (own / "report.html").read_bytes()
        assert f"Recipe {name}, for ".encode() in before
        assert b"Behaviours side by side" not in before
        write_report(own)
        assert (own / "report.html").read_bytes() == before, "made again from the files"
    assert "Behaviours side by side" in done.shown
    assert "Do the behaviours share neurons?" in done.shown


def test_a_behaviour_of_one_s_own_is_called_by_its_name(done: Done) -> None:
    """What a scorer judges is its attribute, in all that a run says and writes, but for what `GIVEN` names."""
    files = [path for path in done.directory.rglob("*") if path.is_file()]
    said = {str(path.relative_to(done.directory)): path.read_text(errors="replace") for path in files}
    said |= {"standard output": done.shown, "standard error": done.warned, "tags": str(board(done.directory).Tags())}
    del said["config.yaml"]  # options and data sets have their names
    for name, text in said.items():
        shown = (
            re.sub(r"<pre\b.*?</pre>|data:image[^\"]*", "", text, flags=re.DOTALL) if name.endswith("html") else text
        )
        found = re.findall(".*toxic.*", re.sub("|".join(GIVEN), "", shown) + name, re.IGNORECASE)
        assert not found, f"{name}: {found}"
    homes = ["", *(f"recipes/{name}/" for name in RECIPES)]
    speak = [home + name for home in homes for name in ("report.html", "experiment_results.json", "pruned_eval.json")]
    for name in (*speak, "behaviours.csv", "standard output", "tags"):
        assert "rudeness" in said[name], name
    assert {"baseline_eval.json", "behaviours_overlap.csv", "recipes/all/screen.csv"} <= said.keys()
    assert any(name.startswith("trials/") for name in said)
    assert any(name.startswith("recipes/all/figures/") for name in said)


def test_tensorboard_has_every_recipe(run: Path) -> None:
    tags = board(run).Tags()
    assert {f"rudeness_mean/2_pruned_{name}" for name in RECIPES} < {*tags["scalars"]}
    assert {f"scores_step_is_layer/differential_{name}" for name in RECIPES} < {*tags["histograms"]}


def test_inspect_shows_the_recipes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(run)])
    assert "Behaviours side by side" in capsys.readouterr().out
    main(["inspect", str(run / "recipes" / "shared")])
    shown = capsys.readouterr().out
    assert "Behaviours side by side" not in shown
    assert "tensorboard" not in shown, "the run has its events"


def test_compare_shows_every_recipe(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "again", ignore=shutil.ignore_patterns("scores", "trials"))
    main(["compare", str(run), str(tmp_path / "again")])
    shown = capsys.readouterr().out
    recipes = shown[shown.index("Recipes: change") : shown.index("Selection")]
    assert all(f" {name} " in recipes for name in RECIPES)
    assert re.search(rf"recipe +{RECIPES[0]} +{RECIPES[0]}", shown[shown.index("Selection") :])


def test_a_run_that_does_not_evaluate_is_shown(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores, selections and overlaps alone, as the evidence of several behaviours is made."""
    content = read(ROOT / BEHAVIOURS)
    left_out = ("callbacks.EvaluationCallback", "callbacks.TensorBoardCallback")
    callbacks = [one for one in content["trainer"]["callbacks"] if one["class_path"] not in left_out]
    callbacks[-1]["init_args"]["screen"] = None
    content["trainer"]["callbacks"] = callbacks
    (tmp_path / "overlap.yaml").write_text(yaml.safe_dump(content))
    found = log_dir(command("predict", tmp_path / "overlap.yaml", tmp_path))
    printed = capsys.readouterr().out
    table = printed[printed.index("Do the behaviours share") : printed.index("Shared: ")]
    assert not (found / "experiment_results.json").exists()
    for path in (found, found / "behaviours_overlap.csv"):
        main(["inspect", str(path)])
        shown = capsys.readouterr().out
        assert table in shown
        assert all(f"{name} (6 neurons)" in " ".join(shown.split()) for name in RECIPES)
    main(["report", str(found)])
    page = (found / "report.html").read_text()
    assert "Do the behaviours share neurons?" in page
    assert [path.name for path in (found / "figures").glob("*.svg")] == ["behaviours_overlap_6.svg"]
    main(["compare", str(found), str(run), "--output", str(tmp_path / "compared.json")])
    agree, differ = read(tmp_path / "compared.json")
    shared = rows_of(found / "behaviours_overlap.csv")[0]["num_shared"]
    assert agree["rows"][0] == ["names, scorn (neurons: first 6)", "shared", shared, shared]
    assert "trainer.callbacks.EvaluationCallback.class_path" in [row[0] for row in differ["rows"]]
    with pytest.raises(FileNotFoundError, match=r"recipes/scorn holds a recipe, but no evaluation"):
        main(["report", str(found / "recipes" / "scorn")])


def test_a_recipe_that_nothing_is_left_of_is_left_out(run: Path, tmp_path: Path) -> None:
    refused = ValueError("none of the candidates")
    options = [f"--model.trials_dir={run / 'trials'}", *BRIEF]
    with (
        mock.patch("callbacks.pruning.check_chosen", side_effect=[refused, *[None] * 4]),
        pytest.warns(UserWarning, match="recipe `names` is left out: none of the candidates"),
    ):
        again = log_dir(command("predict", BEHAVIOURS, tmp_path, *options))
    assert Recipe.load(again) == Recipe.load(again / "recipes" / "scorn")
    assert (again / "recipes" / "names" / "screen.csv").is_file(), "which says why"
    assert not (again / "recipes" / "names" / "pruned_neurons.json").exists()
    rows = read(again / "experiment_results.json")["behaviours"]["recipes"]
    assert list(dict.fromkeys(row["recipe"] for row in rows)) == RECIPES[1:]
    assert not (again / "trials").exists(), "all is known from the first run"
    with (
        mock.patch("callbacks.pruning.check_chosen", side_effect=refused),
        pytest.warns(UserWarning, match="is left out"),
        pytest.raises(ValueError, match="none of the candidates"),
    ):
        command("predict", BEHAVIOURS, tmp_path, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.target=last_token_argmax", "--model.explain=logit"], r"`screen` of recipe `shared`, which several"),
        (
            ["--model.target=last_token_argmax", "--model.explain=logit", "recipes=[]", "specific_to=[names]"],
            r"`screen` of recipe `specific_to_names`, which several .* got none of `data\.behaviours\.names`",
        ),
        (["recipes=[each]", "specific_to=[rudeness]"], r"`specific_to` must be some of \['names', 'scorn'\]"),
    ],
)
def test_what_cannot_be_made_is_refused_before_attribution(options: list[str], message: str, tmp_path: Path) -> None:
    content = read(ROOT / BEHAVIOURS)
    for option in (one for one in options if not one.startswith("--")):
        name, _, value = option.partition("=")
        content["trainer"]["callbacks"][3]["init_args"][name] = yaml.safe_load(value)
    if "--model.target=last_token_argmax" in options:  # prompts, which nothing is known to follow
        prompts = {"path": "configs/tiny/prompts.jsonl", "num_prompts": 8, "part": "attribution"}
        content["data"]["behaviours"]["names"] = {
            "class_path": "sparc3_lightning.data.PromptFile", "init_args": prompts
        }  # fmt: skip
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    given = [option for option in options if option.startswith("--")]
    with pytest.raises(ValueError, match=message):
        command("predict", tmp_path / "wrong.yaml", tmp_path, *given)
    assert not [*tmp_path.rglob("scores")]


def test_words_that_may_not_fall_are_not_those_that_should(tmp_path: Path) -> None:
    content = read(ROOT / BEHAVIOURS)
    sets = content["data"]["behaviours"]
    sets["names"] = sets["scorn"]
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    said = r"`specific_to: \[scorn\]` .* but 8 of them, .* also in `data.behaviours.names`. Set `init_args.among`"
    with (
        pytest.warns(UserWarning, match="8 texts of `data.behaviours.names` are also in `data.behaviours.scorn`"),
        pytest.raises(ValueError, match=said),
    ):
        command("predict", tmp_path / "wrong.yaml", tmp_path)
    assert not [*tmp_path.rglob("scores")]


def test_the_plan_counts_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--config", BEHAVIOURS])
    shown = capsys.readouterr().out
    assert re.search(r"5 recipes, each pruned, 1 controls +10 ", shown)
    assert re.search(r"screen +100 ", shown)
