"""Prompts chosen by responses, on two ranks: those of one, before rules and recipe, stopped and gone on together."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback

from callbacks import PruningCallback, RelevanceCallback, ResumeCallback, ScoreWriter
from sparc3_lightning.data import RealToxicityPrompts
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.evaluation import Evaluator, generation
from sparc3_lightning.runs.unfinished import is_unfinished
from tests.distributed.jobs import FixedSamples, make_module, make_trainer
from tests.launch import run_distributed
from tests.tiny_files import save_tiny_model

score_responses = Evaluator.score_responses
AT_ONCE = mock.patch("sparc3_lightning.data.prompts._RESPONSES_AT_ONCE", 8)


def make_data(home: Path) -> SparC3DataModule:
    def chosen(part: Any) -> RealToxicityPrompts:
        return RealToxicityPrompts(str(home / "prompts.jsonl"), "response", 0.6, part=part)

    return SparC3DataModule(
        {"general": FixedSamples()}, {"toxic": chosen("attribution")}, evaluation_prompts=chosen("evaluation")
    )


class Reads(Callback):
    """As one that evaluates."""

    reads = ("evaluation_prompts",)


def predict(home: Path, name: str, strategy: str) -> Any:
    listed = (RelevanceCallback(), ScoreWriter(), ResumeCallback(), PruningCallback(num_neurons=12), Reads())
    trainer = make_trainer(strategy, *listed, default_root_dir=str(home / name))
    module, data = make_module(str(home / "model")), make_data(home)
    with AT_ONCE:
        trainer.predict(module, datamodule=data, return_predictions=False)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return module, data


def prompts_of(data: SparC3DataModule) -> Any:
    return [[prompt.id, prompt.scores["response_toxicity"]] for prompt in data.prompts]


def chosen_by(data: SparC3DataModule) -> Any:
    return [data.reference_samples["toxic"].sample_ids, prompts_of(data)]


def told(evaluation: Any) -> Any:
    """What was said, without what another number of ranks rounds otherwise."""
    return evaluation["toxicity"]["prompts"]


def all_of_it(home: str, strategies: list[str]) -> None:
    """Predict; then test with the recipe where the responses are known, and where the base model makes them again."""
    for strategy in strategies:
        name = f"{strategy}-{os.environ['WORLD_SIZE']}"
        module, data = predict(Path(home), name, strategy)
        found = {"chosen": chosen_by(data), "pruned": []}
        for makes in (False, True):
            recipe = Path(home, f"{name}-alone" if makes else name, "pruned_neurons.json")
            if makes:
                from_rank_zero(partial(module.run.recipe.save, recipe))
            tested, data = make_module(str(Path(home, "model")), recipe=str(recipe)), make_data(Path(home))
            where = Path(home, f"{name}-test-{makes}")
            trainer = make_trainer(strategy, inference_mode=makes, default_root_dir=str(where))
            with AT_ONCE, mock.patch.object(Evaluator, "score_responses", autospec=True) as made:
                made.side_effect = score_responses
                trainer.test(tested, datamodule=data, verbose=False)
            assert made.called == makes
            assert prompts_of(data) == found["chosen"][1]
            found["pruned"].append(tested.run.pruned.to_json())
        Path(home, f"{name}-rank{module.global_rank}.json").write_text(json.dumps(found))


def stopped(home: str, strategy: str) -> None:
    """The last rank alone is told while it generates the second chunk; then both go on with what the first gave."""
    complete, calls = generation.complete, []

    def signalled(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 5 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return complete(*args)

    name = f"{strategy}-stopped"
    with mock.patch.object(generation, "complete", signalled), pytest.raises(SystemExit) as ended:
        predict(Path(home), name, strategy)
    assert ended.value.code == 75
    torch.distributed.barrier()
    assert is_unfinished(Path(home) / name)
    kept = json.loads((Path(home) / name / "responses.json").read_text())["scores"]
    assert len(kept) == 8
    _, data = predict(Path(home), name, strategy)
    assert not is_unfinished(Path(home) / name)
    assert chosen_by(data) == json.loads((Path(home) / f"{strategy}-2-rank0.json").read_text())["chosen"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path / "model")
    rows = [{"id": f"p{n}", "prompt": " ".join(f"w{(7 * n + k) % 40}" for k in range(3 + n % 5))} for n in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_two_ranks_choose_what_one_does(home: Path) -> None:
    run_distributed(all_of_it, 1, str(home), ["replicated"])
    run_distributed(all_of_it, 2, str(home), ["replicated", "sharded"])
    wanted, *others = [json.loads(path.read_text()) for path in sorted(home.glob("*-rank*.json"))]
    assert len(others) == 4
    assert [other["chosen"] for other in others] == [wanted["chosen"]] * 4
    completions = [[told(pruned) for pruned in found["pruned"]] for found in (wanted, *others)]
    assert completions == [[completions[0][0]] * 2] * 5
    run_distributed(stopped, 2, str(home), "sharded")
