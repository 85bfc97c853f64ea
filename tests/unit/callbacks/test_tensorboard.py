"""The TensorBoard callback, read back from the event files."""

import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from callbacks.tensorboard import TensorBoardCallback
from sparc3_lightning.evaluation import Evaluator
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.runs.results import experiment_results
from tests.unit.evaluation.fake_run import LAYERS, make_run


def make_trainer(logger: object) -> tuple[Trainer, SparC3Module]:
    trainer = Trainer(accelerator="cpu", devices=1, logger=logger, callbacks=[], enable_progress_bar=False)  # type: ignore[arg-type]
    module = SparC3Module(config={"model_type": "llama"}, tokenizer="none")
    module.trainer = trainer
    module.log_dir = Path(trainer.log_dir or trainer.default_root_dir)
    module.run = make_run()
    module.run.results = experiment_results(module.run, Evaluator(num_draws=200), {})
    return trainer, module


def events_of(logger: TensorBoardLogger) -> EventAccumulator:
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir, size_guidance={"histograms": 0})
    events.Reload()
    return events


@pytest.fixture
def logger(tmp_path: Path) -> TensorBoardLogger:
    return TensorBoardLogger(tmp_path, "run", default_hp_metric=False)


def test_everything_is_in_the_event_file(logger: TensorBoardLogger) -> None:
    trainer, module = make_trainer(logger)
    TensorBoardCallback().on_predict_end(trainer, module)
    events = events_of(logger)
    tags = events.Tags()
    assert set(tags["histograms"]) == {
        *(f"scores_log10_step_is_layer/{name}" for name in module.run.score_sets),
        "scores_step_is_layer/differential",
    }
    steps = [event.step for event in events.Histograms("scores_step_is_layer/differential")]
    assert steps == list(range(LAYERS))
    assert set(tags["images"]) == {"neurons_per_layer", "before_and_after"}
    assert set(tags["tensors"]) == {"completions/side_by_side/text_summary", "verdict/text_summary"}
    assert events.Scalars("toxicity_mean/2_pruned")[0].value == pytest.approx(0.245)
    assert events.Scalars("attribution_samples_per_second/toxic")[0].value == 2.5


@pytest.mark.parametrize("default_hp_metric", [True, False])
def test_the_hyperparameters_come_with_the_outcome(tmp_path: Path, default_hp_metric: bool) -> None:
    logger = TensorBoardLogger(tmp_path, "run", default_hp_metric=default_hp_metric)
    trainer, module = make_trainer(logger)
    TensorBoardCallback().on_predict_end(trainer, module)
    content = {
        tag: HParamsPluginData.FromString(metadata.plugin_data.content)
        for tag, metadata in events_of(logger).summary_metadata.items()
        if tag.startswith("_hparams_")
    }
    metrics = {info.name.tag for info in content["_hparams_/experiment"].experiment.metric_infos}
    assert {"change/toxicity_mean", "change/perplexity_sliding", "p/toxicity_mean"} <= metrics
    assert "hp_metric" not in metrics
    chosen = content["_hparams_/session_start_info"].session_start_info.hparams
    assert chosen["num_neurons"].number_value == 2


def test_attribution_alone(logger: TensorBoardLogger) -> None:
    trainer, module = make_trainer(logger)
    run = module.run
    run.recipe = run.differential = run.baseline = run.pruned = None
    run.controls, run.results = [], {}
    TensorBoardCallback().on_predict_end(trainer, module)
    tags = events_of(logger).Tags()
    assert len(tags["histograms"]) == 4
    assert tags["images"] == tags["tensors"] == []


@pytest.mark.parametrize("other", [False, "csv"])
def test_without_a_tensorboard_logger_it_warns_once_and_does_nothing(tmp_path: Path, other: bool | str) -> None:
    trainer, module = make_trainer(CSVLogger(tmp_path) if other == "csv" else False)
    callback = TensorBoardCallback()
    with pytest.warns(UserWarning, match=r"^TensorBoardCallback shows nothing: set `trainer\.logger`") as caught:
        callback.on_predict_start(trainer, module)
    assert len(caught) == 1
    callback.on_predict_end(trainer, module)
    assert not list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.rglob("events*"))


def test_with_one_it_does_not_warn(logger: TensorBoardLogger) -> None:
    trainer, module = make_trainer(logger)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TensorBoardCallback().on_predict_start(trainer, module)


def test_no_prompts_are_shown_where_none_are_wanted(logger: TensorBoardLogger) -> None:
    trainer, module = make_trainer(logger)
    TensorBoardCallback(num_prompts=0).on_predict_end(trainer, module)
    assert events_of(logger).Tags()["tensors"] == ["verdict/text_summary"]
    with pytest.raises(ValueError, match=r"TensorBoardCallback\.init_args\.num_prompts"):
        TensorBoardCallback(num_prompts=-1)
