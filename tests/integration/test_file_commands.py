"""inspect, select, apply: in this process, and as a user types them."""

import argparse
import copy
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparc3_lightning import commands
from sparc3_lightning.main import main
from sparc3_lightning.models import DtypeName
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import SCOPES, rank_neurons, select_neurons
from sparc3_lightning.scores.combine import PENALTIES, differential
from sparc3_lightning.scores.score_set import ScoreSet
from tests.tiny import LAYERS, NEURONS
from tests.tiny_files import same_weights, save_tiny_model, save_tiny_scores, typed


class Files(NamedTuple):
    model: Path
    scores: Path
    recipe: Path

    @property
    def select(self) -> list[str]:
        general = [str(self.scores / "seed0"), str(self.scores / "seed1")]
        return ["select", "--general", *general, "--behaviour", str(self.scores / "toxic"), "--num_neurons", "5"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    home = tmp_path_factory.mktemp("files")
    made = Files(home / "model", home / "scores", home / "recipe.json")
    save_tiny_model(made.model)
    save_tiny_scores(made.scores, AutoModelForCausalLM.from_pretrained(made.model).eval())
    main([*made.select, "--output", str(made.recipe)])
    return made


def report_of(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    capsys.readouterr()
    main(["inspect", *map(str, args), "--json"])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


# select


def test_select_writes_what_plain_python_selects(files: Files, tmp_path: Path) -> None:
    main(
        [
            *files.select,
            "--scope",
            "layer",
            "--general_weight",
            "2",
            "--general_penalty",
            "abs",
            "--output",
            str(tmp_path / "r.json"),
        ]
    )
    seeds, toxic = (
        [ScoreSet.load(files.scores / f"seed{seed}") for seed in (0, 1)],
        ScoreSet.load(files.scores / "toxic"),
    )
    expected = select_neurons(differential(seeds, toxic, 2.0, "abs"), 5, "layer")
    found = Recipe.load(tmp_path / "r.json")
    assert (found.neurons, found.scores, found.base_model) == (expected.neurons, expected.scores, expected.base_model)
    assert [data["name"] for data in found.options["general"]] == ["seed0", "seed1"]
    assert found.options["behaviour"]["name"] == "toxic"


def test_select_writes_the_differential_too(files: Files, tmp_path: Path) -> None:
    main([*files.select, "--output", str(tmp_path / "r.json"), "--scores_output", str(tmp_path / "diff")])
    again = select_neurons(ScoreSet.load(tmp_path / "diff"), 5)
    assert again.neurons == Recipe.load(tmp_path / "r.json").neurons == Recipe.load(files.recipe).neurons


@pytest.mark.parametrize("taken", ["r.json", "diff"])
def test_select_refuses_what_exists_before_it_reads_anything(taken: str, files: Files, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("precious")
    missing = ["select", "--general", "nowhere", "--behaviour", "nowhere"]
    with pytest.raises(FileExistsError, match="exists already"):
        main([*missing, "--output", str(tmp_path / "r.json"), "--scores_output", str(tmp_path / "diff")])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(taken, "precious")]


def test_select_into_a_directory_uses_the_usual_name(files: Files, tmp_path: Path) -> None:
    main([*files.select, "--output", str(tmp_path)])
    assert (tmp_path / "pruned_neurons.json").is_file()
    with pytest.raises(FileExistsError):
        main([*files.select, "--output", str(tmp_path)])


def test_select_warns_in_one_line_about_too_many_neurons(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*files.select, "--num_neurons", str(LAYERS * NEURONS), "--output", str(tmp_path / "r.json")])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sparc3: warning: only ")


# inspect


def test_inspect_scores_as_json(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    report, scores = report_of(capsys, files.scores / "toxic", "--top", 4), ScoreSet.load(files.scores / "toxic")
    assert report["manifest"] == scores.manifest
    rows = {row["module"]: row for row in report["modules"]}
    assert list(rows) == list(scores.scores)
    for name, score in scores.scores.items():
        assert rows[name]["count"] == score.numel()
        assert rows[name]["max"] == score.max().item()
        assert rows[name]["mean"] == pytest.approx(score.mean().item(), rel=1e-5)
        assert rows[name]["share"] == pytest.approx(score.sum().item() / scores.total, rel=1e-5)
    flat = torch.cat(list(scores.scores.values()))
    expected = [divmod(int(position), NEURONS) for position in flat.argsort(descending=True)[:4]]
    assert [(row["layer"], row["index"]) for row in report["top_neurons"]] == expected
    assert report["checks"]["layers_with_neuron_scores"] == report["checks"]["layers_of_model"] == LAYERS
    assert report["checks"]["total"] == pytest.approx(scores.total)


def test_inspect_differential_shows_the_most_negative_first(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*files.select, "--output", str(tmp_path / "r.json"), "--scores_output", str(tmp_path / "diff")])
    report = report_of(capsys, tmp_path / "diff", "--top", 5)
    layers, indices, scores = rank_neurons(ScoreSet.load(tmp_path / "diff"))
    shown = [(row["layer"], row["index"], row["score"]) for row in report["top_neurons"]]
    assert shown == list(zip(layers[:5].tolist(), indices[:5].tolist(), scores[:5].tolist(), strict=True))
    assert shown[0][2] < 0


def test_inspect_recipe_as_json(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    report, recipe = report_of(capsys, files.recipe, "--top", 2), Recipe.load(files.recipe)
    assert report["base_model"] == recipe.base_model
    assert report["options"] == recipe.options
    assert {row["layer"]: row["count"] for row in report["layers"]} == {
        layer: len(indices) for layer, indices in recipe.per_layer().items()
    }
    assert [(row["layer"], row["index"]) for row in report["top_neurons"]] == recipe.neurons[:2]


def test_inspect_orders_layers_by_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(11)]
    ScoreSet({name: torch.ones(3) for name in names}).save(tmp_path / "made by hand")
    report = report_of(capsys, tmp_path / "made by hand")
    assert [row["module"] for row in report["modules"]] == names
    assert [row["share"] for row in report["modules"]] == pytest.approx([1 / 11] * 11)


def test_inspect_scores_without_neuron_modules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ScoreSet({"model.layers.0.self_attn.q_proj": torch.zeros(3, 2)}).save(tmp_path / "s")
    report = report_of(capsys, tmp_path / "s")
    assert (report["top_neurons"], report["modules"][0]["share"]) == ([], 0.0)
    main(["inspect", str(tmp_path / "s")])
    assert "Top neurons" not in capsys.readouterr().out


def test_tables_fit_80_columns_and_fold_no_name(tmp_path: Path) -> None:
    """Names and counts as long as LLaMA-3-8B's, signed: the widest table."""
    score = torch.full((200, 50), -1.2345e-7)
    score[0, 0] = 0.5
    names = [f"model.layers.31.{part}" for part in ("self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj")]
    ScoreSet(dict.fromkeys(names, score)).save(tmp_path / "s")
    shown = typed("inspect", str(tmp_path / "s"))
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    rows = [line.split() for line in shown.stdout.splitlines() if line.startswith("model.")]
    assert [row[0] for row in rows] == sorted(names)
    assert {len(row) for row in rows} == {6}


@pytest.mark.parametrize("what", ["toxic", "recipe"])
def test_inspect_reads_well_in_a_pipe(what: str, files: Files) -> None:
    path = files.recipe if what == "recipe" else files.scores / what
    shown = typed("inspect", str(path))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    for word in (
        "base model",
        "weight hash",
        "index",
        *(["Neurons per layer"] if what == "recipe" else ["Checks", "sha256"]),
    ):
        assert word in shown.stdout


def test_markup_in_a_name_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ScoreSet({"[bold]name:smile:[/x]": torch.ones(2)}).save(tmp_path / "s")
    main(["inspect", str(tmp_path / "s")])
    assert "[bold]name:smile:[/x]" in capsys.readouterr().out


@pytest.mark.parametrize("case", ["flipped", "truncated", "missing", "version", "not_json"])
def test_damaged_scores_are_one_line_that_names_the_file(case: str, files: Files, tmp_path: Path) -> None:
    broken = tmp_path / "scores"
    shutil.copytree(files.scores / "toxic", broken)
    tensors, manifest = broken / "scores.safetensors", broken / "manifest.json"
    content = tensors.read_bytes()
    if case == "flipped":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif case == "truncated":
        tensors.write_bytes(content[:-4])
    elif case == "missing":
        tensors.unlink()
    else:
        manifest.write_text(
            manifest.read_text().replace('"format_version": 1', '"format_version": 9') if case == "version" else "{"
        )
    named = manifest if case in ("version", "not_json") else tensors
    refused(typed("inspect", str(broken)), str(named))


def refused(result: Any, *said: str) -> None:
    assert result.returncode == 1
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("(SPARC3_TRACEBACK")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("sparc3: error: ")
    for part in said:
        assert part in lines[0]


def test_inspect_says_what_is_missing_and_what_lies_below(files: Files, tmp_path: Path) -> None:
    refused(typed("inspect", str(tmp_path / "nowhere")), "nowhere", "does not exist")
    refused(typed("inspect", str(tmp_path)), "manifest.json or pruned_neurons.json")
    refused(typed("inspect", str(files.scores)), str(files.scores / "seed0"), str(files.scores / "toxic"))


def test_inspect_recipe_that_was_edited(files: Files, tmp_path: Path) -> None:
    content = json.loads(files.recipe.read_text())
    content["neurons"].pop()
    (tmp_path / "r.json").write_text(json.dumps(content))
    refused(typed("inspect", str(tmp_path / "r.json")), "r.json", "truncated or was edited")


# apply


def test_apply_writes_the_pruned_model(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["apply", "--model", str(files.model), "--recipe", str(files.recipe), "--output", str(tmp_path / "pruned")])
    dense = AutoModelForCausalLM.from_pretrained(files.model)
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    expected = copy.deepcopy(dense)
    apply_recipe(expected, Recipe.load(files.recipe))
    assert same_weights(pruned, expected)
    assert not same_weights(pruned, dense)
    assert f"5 neurons in 2 layers: {tmp_path / 'pruned'}" in capsys.readouterr().out
    main(["inspect", str(tmp_path / "pruned")])
    assert "Recipe: 5 neurons in 2 of 2 layers" in capsys.readouterr().out


def test_apply_takes_the_base_model_from_the_recipe(files: Files, tmp_path: Path) -> None:
    assert Recipe.load(files.recipe).base_model["id"] == str(files.model)
    main(["apply", "--recipe", str(files.recipe), "--output", str(tmp_path / "pruned")])
    assert (tmp_path / "pruned" / "model.safetensors").is_file()


def test_apply_narrows_the_type_after_the_base_model_was_checked(files: Files, tmp_path: Path) -> None:
    main(["apply", "--recipe", str(files.recipe), "--output", str(tmp_path / "pruned"), "--dtype", "float16"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype="auto").dtype == torch.float16


def test_apply_as_typed_refuses_another_base_model(files: Files, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "other", seed=1)
    result = typed(
        "apply", "--model", str(tmp_path / "other"), "--recipe", str(files.recipe), "--output", str(tmp_path / "p")
    )
    assert result.returncode == 1
    message = next(line for line in result.stderr.splitlines() if line.startswith("sparc3: error"))
    assert "weight hash" in message
    assert "check_base" not in message
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_apply_refuses_an_existing_directory_before_it_loads_anything(files: Files, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="`--output`"):
        main(["apply", "--model", "no/where", "--recipe", "nowhere.json", "--output", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_apply_to_a_model_that_is_not_there(files: Files, tmp_path: Path) -> None:
    result = typed("apply", "--model", "no/where", "--recipe", str(files.recipe), "--output", str(tmp_path / "p"))
    refused(result, "no/where", "`--model` to that directory", "HF_HOME")
    assert list(tmp_path.iterdir()) == []


# options


def test_errors_name_options_and_not_config_keys(files: Files, tmp_path: Path) -> None:
    result = typed(*files.select[:-1], "1000", "--output", str(tmp_path / "r.json"))
    refused(result, "between 1 and 48, got 1000", "Set `--num_neurons`.")
    assert "PruningCallback" not in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["inspect"],
        ["inspect", "x", "--top", "0"],
        ["inspect", "x", "--to", "3"],
        ["select", "--general", "a"],
        ["select", "--general", "a", "--behaviour", "b", "--output", "c", "--scope", "row"],
        ["apply", "--recipe", "r", "--output", "o", "--dtype", "int8"],
        ["apply", "--recipe", "r"],
    ],
)
def test_wrong_options_end_with_status_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    assert f"sparc3 {args[0]}: error: " in capsys.readouterr().err


def test_choices_are_the_library_s() -> None:
    assert commands.SCOPES == SCOPES
    assert set(commands.PENALTIES) == set(PENALTIES)
    assert get_args(DtypeName) == commands.DTYPES


@pytest.mark.parametrize("command", ["inspect", "select", "apply"])
def test_help_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: sparc3 {command}" in shown
    assert "None" not in shown
    parser = argparse.ArgumentParser()
    commands._COMMANDS[command][0](parser)
    assert all(action.help for action in parser._actions)
