"""Prompts chosen by responses: once, by the base model, with luck of their own; kept, stopped, gone on, found again."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.data import RealToxicityPrompts
from sparc3_lightning.evaluation import Evaluator, generate
from sparc3_lightning.evaluation.sampling import CHOICE_SEED
from tests.integration.test_resume import ended, start, stop_in, unfinished
from tests.runs import BRIEF, QUIET, ROOT, TINY, command, log_dir, read

pytestmark = QUIET

THRESHOLD, AT_ONCE = 0.9, "sparc3_lightning.data.prompts._RESPONSES_AT_ONCE"
GENERATE = "sparc3_lightning.evaluation.generation.complete"
score_responses = Evaluator.score_responses


def config(path: Path, *names: str) -> Path:
    """The tiny experiment, its toxic prompts chosen by responses; with these callbacks alone, if any are named."""
    content = read(ROOT / TINY)
    for source in (content["data"]["behaviours"]["toxic"], content["data"]["evaluation_prompts"]):
        source["init_args"] |= {"select_by": "response", "threshold": THRESHOLD}
    if names:
        listed = content["trainer"]["callbacks"]
        content["trainer"]["callbacks"] = [c for c in listed if c["class_path"].removeprefix("callbacks.") in names]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@contextlib.contextmanager
def counted(at_once: int = 8) -> Iterator[list[str]]:
    """Ids of the prompts that the model responds to meanwhile."""
    asked: list[str] = []

    def ask(evaluator: Any, model: Any, tokenizer: Any, prompts: Any, progress: Any = None) -> list[float]:
        scores = score_responses(evaluator, model, tokenizer, prompts, progress)
        asked.extend(prompt.id for prompt in prompts)
        return scores

    with mock.patch(AT_ONCE, at_once), mock.patch.object(Evaluator, "score_responses", ask):
        yield asked


def measured(directory: Path, what: str) -> Any:
    return read(directory / f"{what}_eval.json")["toxicity"]["prompts"]


CHAIN = ("RelevanceCallback", "ScoreWriter", "ResumeCallback", "PruningCallback", "EvaluationCallback")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> SparC3CLI:
    home = tmp_path_factory.mktemp("predicted")
    return command("predict", config(home / "run.yaml", *CHAIN), home, *BRIEF)


def test_chosen_by_other_completions_than_are_measured(predicted: SparC3CLI) -> None:
    module, scorer = predicted.model, predicted.model.evaluator.scorer
    path = str(ROOT / "configs/tiny/prompts.jsonl")
    context = replace(module.data.context, score_responses=None)
    for part, chosen in (
        ("attribution", module.data.reference_samples["toxic"].sample_ids),
        ("evaluation", [prompt["id"] for prompt in measured(log_dir(predicted), "baseline")]),
    ):
        everything = RealToxicityPrompts(path, threshold=0.0, part=part).load_prompts(context)
        said = {}
        for seed in (CHOICE_SEED, 0):
            decoding = replace(module.evaluator.decoding, seed=seed)
            completions = generate(module.lm, module.tokenizer, everything, decoding).completions
            scores = [float(scorer.score([row[0].text])["toxicity"][0]) for row in completions]
            said[seed] = {prompt.id: score for prompt, score in zip(everything, scores, strict=True)}
        assert sorted(chosen) == sorted(name for name, score in said[CHOICE_SEED].items() if score >= THRESHOLD)
        assert 3 < len(chosen) < len(everything) - 3
    toxicity = {p["id"]: p["completions"][0]["scores"]["toxicity"] for p in measured(log_dir(predicted), "baseline")}
    assert toxicity == {name: said[0][name] for name in toxicity}
    assert 0 < sum(toxicity.values()) < len(toxicity), "not all of them again: that was the luck of the choice"


def test_test_measures_the_same_prompts(predicted: SparC3CLI, tmp_path: Path) -> None:
    """By the run's own config, wherever `test` writes to; the base model chooses them, the pruned one is measured."""
    home = log_dir(predicted)
    recipe = f"--model.recipe={home / 'pruned_neurons.json'}"
    pruned = [f"--model.model={home / 'pruned_model'}", "--model.config=null", "--model.tokenizer=null"]
    for number, (what, options) in enumerate({"baseline": [], "pruned": [recipe]}.items()):
        with counted() as asked:
            cli = command("test", home / "config.yaml", tmp_path / str(number), *options)
        assert asked == []
        assert measured(log_dir(cli), what) == measured(home, what)
        kept = [prompt["id"] for prompt in measured(home, what)]
        assert {*kept} <= {name.split()[0] for name in read(log_dir(cli) / "responses.json")["scores"]}
    with counted() as asked:
        cli = command("test", home / "config.yaml", tmp_path / "directory", *pruned)
    assert asked == []
    assert measured(log_dir(cli), "baseline") == measured(home, "pruned")


def test_the_base_model_chooses_where_nothing_is_known(predicted: SparC3CLI, tmp_path: Path) -> None:
    home, alone = log_dir(predicted), tmp_path / "recipe.json"
    shutil.copy(home / "pruned_neurons.json", alone)
    path = config(tmp_path / "run.yaml", *CHAIN)
    with counted() as asked:
        cli = command("test", path, tmp_path, *BRIEF, f"--model.recipe={alone}")
    assert len(asked) > len(measured(home, "pruned"))
    assert measured(log_dir(cli), "pruned") == measured(home, "pruned")
    model = shutil.copytree(home / "pruned_model", tmp_path / "elsewhere" / "pruned")
    pruned = [f"--model.model={model}", "--model.config=null", "--model.tokenizer=null"]
    with pytest.raises(ValueError, match=r"the base model \(weight hash .* chooses prompts by its responses, got a"):
        command("test", path, tmp_path / "other", *BRIEF, *pruned)


def test_greedy_completions_cannot_choose_what_they_measure(tmp_path: Path) -> None:
    greedy = "--model.evaluator.init_args.decoding.temperature=0"
    with pytest.raises(ValueError, match=r"`select_by: response` of evaluation prompts needs completions that differ"):
        command("test", config(tmp_path / "run.yaml"), tmp_path, *BRIEF, greedy)


@pytest.mark.parametrize(
    ("prompts", "temperature", "message"),
    [
        ({}, 0, r"`screen` scores the responses to `data\.behaviours\.toxic`, chosen"),
        ({"num_prompts": 1}, 1, r"`screen` needs prompts .* got 1 of `data\.behaviours\.toxic`\. Set .*num_prompts"),
    ],
    ids=["greedy responses", "one prompt"],
)
def test_what_a_screen_cannot_measure_is_refused(
    prompts: dict[str, int], temperature: float, message: str, tmp_path: Path
) -> None:
    path = config(tmp_path / "run.yaml")
    content = read(path)
    del content["data"]["evaluation_prompts"]["init_args"]["select_by"]
    (pruning,) = (one for one in content["trainer"]["callbacks"] if one["class_path"] == "callbacks.PruningCallback")
    pruning["init_args"]["screen"] = {"num_candidates": 40, "num_price_tokens": 20}
    content["data"]["price"] = read(ROOT / "configs/tiny/words.yaml")["data"]["price"]
    content["data"]["behaviours"]["toxic"]["init_args"] |= prompts
    content["model"]["evaluator"]["init_args"]["decoding"]["temperature"] = temperature
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message):
        command("predict", path, tmp_path, *BRIEF)


# Stopped and killed while prompts are chosen

SCORES_ONLY = ("RelevanceCallback", "ScoreWriter", "ResumeCallback")


def predict_and_die(path: Path, save_dir: Path) -> None:
    """Killed in the third chunk."""
    calls: list[None] = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 3 else score_responses(*args, **kwargs)

    with mock.patch(AT_ONCE, 8), mock.patch.object(Evaluator, "score_responses", dying):
        command("predict", path, save_dir, *BRIEF)


def test_killed_and_stopped_while_choosing(
    predicted: SparC3CLI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, first = config(tmp_path / "run.yaml", *SCORES_ONLY), tmp_path / "tiny" / "version_0"
    assert ended(start(predict_and_die, path, tmp_path)) == -signal.SIGKILL
    assert unfinished(tmp_path) == [first]
    kept = read(first / "responses.json")["scores"]
    assert len(kept) == 16
    before = signal.getsignal(signal.SIGTERM)
    with counted() as asked, stop_in(GENERATE, 2), pytest.raises(SystemExit) as stopped:
        command("predict", path, tmp_path, *BRIEF)
    assert stopped.value.code == 75
    assert f"stopped by SIGTERM: the same command goes on in {first} (exit code 75)" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert unfinished(tmp_path) == [first]
    with counted() as more:
        cli = command("predict", path, tmp_path, *BRIEF)
    assert log_dir(cli) == first
    toxic = [one.model.data.reference_samples["toxic"] for one in (cli, predicted)]
    assert toxic[0].sample_ids == toxic[1].sample_ids
    names = [name.split()[0] for name in kept] + asked + more
    assert len(names) == len({*names}) == toxic[0].source["num_responses"], "no response twice"
    assert not (first / "resume").exists()


def test_told_to_stop_while_the_model_loads(tmp_path: Path) -> None:
    path = config(tmp_path / "run.yaml", *SCORES_ONLY)
    loading = stop_in("sparc3_lightning.module.SparC3Module.configure_model")
    with counted() as asked, loading, pytest.raises(SystemExit) as stopped:
        command("predict", path, tmp_path, *BRIEF)
    assert (stopped.value.code, asked) == (75, [])


def test_test_goes_on_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path / "run.yaml", *SCORES_ONLY)
    with counted() as asked, stop_in(GENERATE, 3), pytest.raises(SystemExit) as stopped:
        command("test", path, tmp_path, *BRIEF)
    assert stopped.value.code == 75
    first = tmp_path / "tiny" / "version_0"
    assert f"the same command goes on with the responses in {first} (exit code 75)" in capsys.readouterr().err
    assert len(asked) > 0
    with counted() as more:
        command("test", path, tmp_path, *BRIEF)
    assert not {*asked} & {*more}
    assert unfinished(tmp_path) == []
