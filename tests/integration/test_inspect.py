"""`sparc3 inspect`: in this process, and as a user types it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sparc3_lightning.main import main
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import rank_neurons
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.tiny import LAYERS, NEURONS
from tests.tiny_files import Files, refused, typed


def report_of(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    capsys.readouterr()
    main(["inspect", *map(str, args), "--json"])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


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


def test_inspect_shows_what_a_screen_has_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"effect": 0.5, "confirmed": 0.4, "ordinary": 0.0, "price": 0.01, "value": 0.2, "unit": "nats"}
    Recipe([(1, 3)], [-2.0], {}, {"screen": {"unit": "nats"}}, [figures]).save(tmp_path)
    main(["inspect", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "First neurons (highest value first; in nats, price in nats)" in shown
    assert shown.splitlines()[-2].split() == ["1", "3", "-2", "0.5", "0.01", "0.2"]


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


def test_inspect_says_what_is_missing_and_what_lies_below(files: Files, tmp_path: Path) -> None:
    refused(typed("inspect", str(tmp_path / "nowhere")), "nowhere", "does not exist")
    refused(typed("inspect", str(tmp_path)), "holds no experiment_results.json, manifest.json or pruned_neurons.json")
    refused(typed("inspect", str(files.scores)), str(files.scores / "seed0"), str(files.scores / "toxic"))


def test_inspect_recipe_that_was_edited(files: Files, tmp_path: Path) -> None:
    content = json.loads(files.recipe.read_text())
    content["neurons"].pop()
    (tmp_path / "r.json").write_text(json.dumps(content))
    refused(typed("inspect", str(tmp_path / "r.json")), "r.json", "truncated or was edited")
