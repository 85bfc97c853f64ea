"""`sparc3 select`, `sparc3 apply` and `sparc3 report`: in this process, and as a user types them."""

import argparse
import copy
import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparc3_lightning import commands
from sparc3_lightning.main import main
from sparc3_lightning.models.identity import tokenizer_identity
from sparc3_lightning.models.load import DtypeName
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import SCOPES, select_neurons
from sparc3_lightning.scoring.combine import PENALTIES, differential
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.tiny import LAYERS, NEURONS
from tests.tiny_files import Files, refused, same_weights, save_tiny_model, tiny_tokenizer, typed

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


WEIGHTS = ["select", "--general", "nowhere", "--behaviour", "nowhere", "--sparsity", "0.1"]


@pytest.mark.parametrize("taken", ["r.json", "r.safetensors", "diff"])
def test_select_of_weights_never_writes_over_the_indices(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("precious")
    with pytest.raises(FileExistsError, match=rf"{taken} exists already"):
        main([*WEIGHTS, "--output", str(tmp_path / "r.json"), "--scores_output", str(tmp_path / "diff")])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(taken, "precious")]


def test_the_output_of_a_recipe_of_weights_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`--output` of a recipe of weights must be FILE\.json .*, got r\.txt"):
        main([*WEIGHTS, "--output", str(tmp_path / "r.txt")])


@pytest.mark.parametrize("kind", [["--num_neurons", "3"], ["--sparsity", "0.1"]])
def test_a_directory_gets_one_recipe(kind: list[str], tmp_path: Path) -> None:
    for name in ("pruned_neurons.json", "pruned_weights.json"):
        directory = tmp_path / name.removesuffix(".json")
        directory.mkdir()
        (directory / name).write_text("{}")
        with pytest.raises(FileExistsError, match=rf"{name} exists already"):
            main([*WEIGHTS[:-2], *kind, "--output", str(directory)])


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


def test_apply_dampens_by_a_factor(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["apply", "--recipe", str(files.recipe), "--factor", "0.25", "--output", str(tmp_path / "dampened")])
    expected = AutoModelForCausalLM.from_pretrained(files.model)
    apply_recipe(expected, Recipe.load(files.recipe), factor=0.25)
    assert same_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "dampened"), expected)
    assert Recipe.load(tmp_path / "dampened").factors == [0.25] * 5
    assert "with 5 dampened of 5 neurons in 2 layers" in capsys.readouterr().out


def test_apply_takes_the_base_model_from_the_recipe(files: Files, tmp_path: Path) -> None:
    assert Recipe.load(files.recipe).base_model["id"] == str(files.model)
    main(["apply", "--recipe", str(files.recipe), "--output", str(tmp_path / "pruned")])
    assert (tmp_path / "pruned" / "model.safetensors").is_file()


def test_apply_takes_the_tokenizer_of_the_run(files: Files, tmp_path: Path) -> None:
    """Not the base model's, with which other tokens were scored."""
    own = tiny_tokenizer()
    own.add_tokens(["mine"])
    own.save_pretrained(tmp_path / "own")
    made = json.loads(files.recipe.read_text())
    made["base_model"]["tokenizer"] = tokenizer_identity(str(tmp_path / "own"), None)
    del made["sha256"]
    (tmp_path / "recipe.json").write_text(json.dumps(made))
    command = ["apply", "--recipe", str(tmp_path / "recipe.json"), "--output"]
    main([*command, str(tmp_path / "pruned")])
    main([*command, str(tmp_path / "theirs"), "--tokenizer", str(files.model)])
    for written, home in (("pruned", tmp_path / "own"), ("theirs", files.model)):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / written / name).read_bytes() == (home / name).read_bytes()
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(OSError, match=r"the tokenizer .*own' cannot be loaded: no such directory\. Set `--tokenizer`"):
        main([*command, str(tmp_path / "again")])


def test_apply_narrows_the_type_after_the_base_model_was_checked(files: Files, tmp_path: Path) -> None:
    main(["apply", "--recipe", str(files.recipe), "--output", str(tmp_path / "pruned"), "--dtype", "float16"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype="auto").dtype == torch.float16


def test_apply_refuses_what_it_has_made(files: Files, tmp_path: Path) -> None:
    main(["apply", "--recipe", str(files.recipe), "--output", str(tmp_path / "pruned")])
    again = ["--model", str(tmp_path / "pruned"), "--output", str(tmp_path / "again")]
    with pytest.raises(ValueError, match=r"weight hash .* lacks these neurons already"):
        main(["apply", "--recipe", str(files.recipe), *again])
    assert not (tmp_path / "again").exists()


def test_apply_as_typed_refuses_another_base_model(files: Files, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "other", seed=1)
    result = typed(
        "apply", "--model", str(tmp_path / "other"), "--recipe", str(files.recipe), "--output", str(tmp_path / "p")
    )
    assert result.returncode == 1
    message = next(line for line in result.stderr.splitlines() if line.startswith("sparc3: error"))
    assert "weight hash" in message
    assert message.endswith("Load the base model (`--model`).")
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_apply_says_that_a_model_built_from_a_config_lies_nowhere(files: Files, tmp_path: Path) -> None:
    made = json.loads(files.recipe.read_text())
    made["base_model"]["id"] = "unnamed llama"
    del made["sha256"]
    (tmp_path / "recipe.json").write_text(json.dumps(made))
    command = ["apply", "--recipe", str(tmp_path / "recipe.json"), "--output", str(tmp_path / "pruned")]
    with pytest.raises(ValueError, match=r"a config has built .* Set `--model` to a Hugging Face directory"):
        main(command)
    main([*command, "--model", str(files.model)])
    assert (tmp_path / "pruned" / "model.safetensors").is_file()


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
        [*WEIGHTS, "--output", "c", "--num_neurons", "100"],
        ["apply", "--recipe", "r", "--output", "o", "--dtype", "int8"],
        ["apply", "--recipe", "r", "--output", "o", "--factor", "1.5"],
        ["apply", "--recipe", "r"],
        ["report"],
        ["report", "run", "--num_prompts", "0"],
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


@pytest.mark.parametrize("command", ["inspect", "select", "apply", "report"])
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
