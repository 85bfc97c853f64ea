"""`sparc3 predict --config configs/tiny/words.yaml` as a user runs it; and what a config may get wrong about it."""

import csv
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from scipy import stats
from torch import Tensor

from sparc3_lightning.data.samples import fingerprint
from sparc3_lightning.evaluation.responses import PROBES
from sparc3_lightning.metrics.scorers import LexicalScorer, scorer_setting
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.report.read import read_run
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials.screening import price_passages
from tests.integration.test_resume import stop_in
from tests.runs import BRIEF, QUIET, ROOT, board, command, log_dir, read

pytestmark = QUIET

WORDS = "configs/tiny/words.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return log_dir(command("predict", WORDS, tmp_path_factory.mktemp("words"), *BRIEF))


def test_scores_say_what_was_explained(run: Path) -> None:
    words = ScoreSet.load(run / "scores" / "toxic").manifest
    ordinary = ScoreSet.load(run / "scores" / "ordinary").manifest
    assert (words["options"]["target"], words["options"]["explain"]) == ("next_token", "logprob")
    assert len(words["data"]["target_ids"]) == len(ordinary["data"]["target_ids"]) == 16
    assert words["data"]["source"]["class"] == "WordsThatMatter"
    assert ordinary["data"]["source"]["length_like"] == "toxic"


def test_every_candidate_and_every_choice_is_written(run: Path) -> None:
    with (run / "screen.csv").open() as file:
        rows = list(csv.DictReader(file))
    recipe = Recipe.load(run)
    assert len(rows) == 40
    assert 1 <= len(recipe.neurons) <= 8
    chosen = {int(row["chosen"]): (int(row["layer"]), int(row["index"])) for row in rows if row["chosen"]}
    assert [chosen[place] for place in sorted(chosen)] == recipe.neurons
    for row in rows:
        if row["chosen"]:
            assert min(float(row["value"]), float(row["effect"]), float(row["confirmed"])) > 0
    results = read(run / "experiment_results.json")
    assert results["selection"]["num_neurons"] == len(recipe.neurons)
    assert results["selection"]["screen"] == recipe.options["screen"]
    page = (run / "report.html").read_text()
    assert "Chosen among 40 candidates, each removed alone" in page
    assert "relevance a sample, nats" in page
    assert "logits" not in page
    assert recipe.options["screen"]["num_candidates"] == 40


def test_every_method_is_held_against_what_removal_did(run: Path) -> None:
    with (run / "screen.csv").open() as file:
        candidates = list(csv.DictReader(file))
    with (run / "screen_methods.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["lrp_signed", "gradient_signed", "activation", "auroc", "random", "other_half"]
    effects = [(float(row["effect"]) + float(row["confirmed"])) / 2 for row in candidates]
    own = stats.spearmanr([-float(row["score"]) for row in candidates], effects).statistic
    assert float(rows["lrp_signed"]["correlation"]) == pytest.approx(own)
    activation = [ScoreSet.load(run / "scores" / "activation" / name).scores for name in ("ordinary", "toxic")]
    places = [(f"model.layers.{row['layer']}.mlp.up_proj", int(row["index"])) for row in candidates]
    contrast = [activation[0][name][index].abs() - activation[1][name][index] for name, index in places]
    expected = stats.spearmanr([-float(one) for one in contrast], effects).statistic
    assert float(rows["activation"]["correlation"]) == pytest.approx(expected)
    for row in rows.values():
        assert (row["num_candidates"], row["num_best"], row["recall_by_chance"], row["missing"]) == (
            "40",
            "8",
            "0.2",
            "",
        )
        assert float(row["correlation_low"]) <= float(row["correlation"]) <= float(row["correlation_high"])
    found = read(run / "experiment_results.json")["predictions"]
    assert found["proposed_by"] == "lrp_signed"
    assert found["methods"]["auroc"]["recall"] == float(rows["auroc"]["recall"])
    assert "Does relevance predict removal?" in (run / "report.html").read_text()
    shown = read_run(run).screened
    assert shown is not None
    assert shown.effect.tolist() == pytest.approx(effects)
    assert shown.is_chosen.sum() == sum(bool(row["chosen"]) for row in candidates)
    names = ["relevance_and_effect", "methods_and_effect"]
    assert all((run / f"figures/{name}.png").stat().st_size > 5000 for name in names)
    assert {*names} <= {*board(run).Tags()["images"]}


def test_one_behaviour_s_files_are_no_recipes_of_several(run: Path) -> None:
    assert not (run / "recipes").exists()
    assert not [*run.glob("behaviours*")]
    assert (run / "scores" / "differential" / "manifest.json").is_file()
    results = read(run / "experiment_results.json")
    assert "behaviours" not in results
    assert not {"recipe", "behaviours"} & results["selection"].keys()
    assert "Behaviours side by side" not in (run / "report.html").read_text()


def test_a_broken_table_of_a_screen_is_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/screen.csv"
    path.write_text(path.read_text().replace("effect", "other"))
    with pytest.raises(ValueError, match=rf"{path} is no table of a screen"):
        read_run(tmp_path / "run")


def test_methods_scored_too_late_are_said_at_the_start(tmp_path: Path) -> None:
    content = read(ROOT / WORDS)
    callbacks = content["trainer"]["callbacks"]
    callbacks.append(callbacks.pop(3))
    assert callbacks[-1]["class_path"] == "callbacks.BaselineCallback"
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content))
    with pytest.warns(UserWarning, match=r"lists `callbacks\.BaselineCallback` after `callbacks\.PruningCallback`"):
        late = log_dir(command("predict", tmp_path / "words.yaml", tmp_path, *BRIEF))
    assert [line.split(",")[0] for line in (late / "screen_methods.csv").read_text().splitlines()[1:]] == [
        "lrp_signed", "other_half"
    ]  # fmt: skip


def test_a_second_run_with_the_same_trials_measures_nothing(run: Path, tmp_path: Path) -> None:
    again = log_dir(command("predict", WORDS, tmp_path, f"--model.trials_dir={run / 'trials'}", *BRIEF))
    assert (again / "screen.csv").read_text() == (run / "screen.csv").read_text()
    (kept,) = (run / "trials").glob("screen-*.jsonl")
    neurons = [json.loads(line)[:2] for line in kept.read_text().splitlines() if line]
    assert len(neurons) == len({json.dumps(one) for one in neurons}), "no candidate twice"
    assert not (again / "trials").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.target=last_token_argmax", "--model.explain=odds"], "explain"),
        (["--data.price.general.init_args.path=configs/tiny/heldout.txt"], r"`price` must hold text that is neither"),
        (["--data.behaviours.toxic.init_args.num_samples=17"], r"`num_samples` is 17, but .* gives only 16 words"),
        (["--data.general.ordinary.init_args.length_like=nobody"], r"`length_like` must name a set"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((ValueError, SystemExit)) as error:
        command("predict", WORDS, tmp_path, *options)
    assert re.search(message, f"{error.value} {capsys.readouterr().err}".replace("\n", " "))


@pytest.mark.parametrize("allowed", [False, True])
def test_a_measure_of_attributed_words_is_told(allowed: bool, tmp_path: Path) -> None:
    content = read(ROOT / WORDS)
    named = {"path": "configs/tiny/words.jsonl", "num_words": 3, "name": "insults"}
    measure = {"class_path": "sparc3_lightning.evaluation.named_words.NamedWords", "init_args": named}
    content["model"]["evaluator"]["init_args"]["measures"] = [measure]
    content["data"]["allow_overlap"] = allowed
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content))
    reached = mock.patch("callbacks.RelevanceCallback.after_batch", side_effect=InterruptedError)
    with warnings.catch_warnings(record=True) as caught, reached, pytest.raises(InterruptedError):
        command("predict", tmp_path / "words.yaml", tmp_path, *BRIEF)
    told = [str(one.message) for one in caught if "texts of `NamedWords` are also in" in str(one.message)]
    assert len(told) == (not allowed)
    assert all("`data.behaviours.toxic`" in one for one in told)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (None, r"choosing prompts or words .* Set `Evaluator\.init_args\.scorer`"),
        ({"class_path": "sparc3_lightning.metrics.DetoxifyScorer", "init_args": {"checkpoint": "gone"}}, "gone"),
    ],
)
def test_a_missing_scorer_is_said_before_the_model_is_loaded(
    own: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    content = read(ROOT / WORDS)
    content["trainer"]["callbacks"] = content["trainer"]["callbacks"][:3]  # nothing is evaluated
    del content["model"]["evaluator"]["init_args"]["scorer"]
    content["data"]["general"]["ordinary"]["init_args"] |= {"threshold": 0.1, "scorer": own}
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content))
    loading = mock.patch("sparc3_lightning.module.SparC3Module.configure_model", side_effect=AssertionError)
    with loading, pytest.raises((ValueError, OSError), match=message):
        command("predict", tmp_path / "words.yaml", tmp_path)


def test_stopped_while_words_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a signal between two chunks; the same command goes on, scores no text twice, and shows how far it is."""
    texts = [{"text": f"one two {'three ' * (number % 5)}such a fool {number}"} for number in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    content = read(ROOT / WORDS)
    content["trainer"]["callbacks"] = content["trainer"]["callbacks"][:3]
    content["data"]["behaviours"]["toxic"]["init_args"]["path"] = str(tmp_path / "texts.jsonl")
    content["data"]["general"]["ordinary"]["init_args"] |= {"length_like": None, "num_samples": 4, "threshold": 0.1}
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content))
    scored: list[str] = []
    score = LexicalScorer.score

    def noted(scorer: LexicalScorer, given: list[str]) -> dict[str, Tensor]:
        scored.extend(given)
        return score(scorer, given)

    few = mock.patch("sparc3_lightning.module._TEXTS_AT_ONCE", 16)
    told = stop_in("sparc3_lightning.module.score_texts_once", 2)
    with few, told, mock.patch.object(LexicalScorer, "score", noted), pytest.raises(SystemExit) as stopped:
        command("predict", tmp_path / "words.yaml", tmp_path, "--trainer.enable_progress_bar=true")
    first = tmp_path / "tiny_words" / "version_0"
    assert stopped.value.code == 75
    assert len(scored) == len(PROBES) + 32
    said = capsys.readouterr().err
    assert "choose words: 4 words" in said
    assert f"stopped by SIGTERM: the same command goes on in {first} (exit code 75)" in said
    asked = mock.patch("sparc3_lightning.evaluation.responses.scorer_setting", wraps=scorer_setting)
    with few, asked as settings, mock.patch.object(LexicalScorer, "score", noted):
        cli = command("predict", tmp_path / "words.yaml", tmp_path)
    assert log_dir(cli) == first
    assert settings.call_count == 1, "of the one scorer, whoever asks it"
    sources = {
        name: ScoreSet.load(first / "scores" / name).manifest["data"]["source"] for name in ("toxic", "ordinary")
    }
    assert [sources[name]["scorer"] for name in sources] == ["lexical", "lexical"]
    texts_scored = [text for text in scored if text not in PROBES]
    assert len(texts_scored) == len({*texts_scored})
    assert not (first / "resume").exists()


def test_the_screen_reads_general_documents_that_are_not_attributed(tmp_path: Path) -> None:
    content = read(ROOT / WORDS)
    del content["data"]["price"]
    content["trainer"]["callbacks"] = [content["trainer"]["callbacks"][place] for place in (0, 1, 4)]
    content["trainer"]["callbacks"][2]["init_args"] |= {"save_model": False}
    content["trainer"]["callbacks"][2]["init_args"]["screen"] |= {"num_price_tokens": 100}
    content["data"]["general"]["ordinary"] = {
        "class_path": "sparc3_lightning.data.C4",
        "init_args": {"path": "configs/tiny/general.txt", "length_like": "toxic", "num_seeds": 1},
    }
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content))
    with mock.patch("callbacks.pruning.price_passages", wraps=price_passages) as read_by_screen:
        data = command("predict", tmp_path / "words.yaml", tmp_path).model.data
    assert read_by_screen.called
    attributed = {*data.reference_samples["ordinary"].fingerprints}
    lines = (ROOT / "configs/tiny/general.txt").read_text().splitlines()
    for call in read_by_screen.call_args_list:
        name, rows = call.args[:2]
        assert name == "ordinary"
        assert len(rows) > 10
        assert {*rows} <= {*lines}
        assert not attributed & {fingerprint(row) for row in rows}


def test_fewer_candidates_than_neurons(tmp_path: Path) -> None:
    content = read(ROOT / WORDS)
    content["trainer"]["callbacks"][4]["init_args"]["screen"]["num_candidates"] = 7
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"`screen\.num_candidates` must be at least `num_neurons` = 8, got 7"):
        command("predict", tmp_path / "words.yaml", tmp_path)


def test_a_contrast_without_words(tmp_path: Path) -> None:
    content = read(ROOT / WORDS)
    content["model"]["target"] = "last_token_argmax"
    content["data"]["general"]["ordinary"] = {
        "class_path": "sparc3_lightning.data.C4",
        "init_args": {"path": "configs/tiny/general.txt", "num_samples": 4, "length": 12},
    }
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"needs words to measure, at least two, got 0 of `data\.general\.ordinary`"):
        command("predict", tmp_path / "words.yaml", tmp_path)
