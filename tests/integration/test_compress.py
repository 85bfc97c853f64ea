"""configs/tiny/compress.yaml as a user runs it: tables, figures, TensorBoard, and a model that loads again."""

import json
from functools import partial
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from callbacks import CompressionCallback, RelevanceCallback
from sparc3_lightning.data import TextFile
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.main import main
from sparc3_lightning.trials.compress import Compression
from tests.distributed.jobs import FixedSamples, SameWeights, make_data, make_module, make_trainer, predict
from tests.runs import QUIET, ROOT, board, command, log_dir, read
from tests.tiny_files import save_tiny_model

pytestmark = QUIET
METHODS = ["lrp_signed", "wanda_sequential", "wanda", "magnitude", "random"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with mock.patch("callbacks.compression.print_experiment"):
        return log_dir(command("predict", "configs/tiny/compress.yaml", tmp_path_factory.mktemp("compress")))


@pytest.fixture(scope="module")
def table(results: Path) -> pd.DataFrame:
    return pd.read_parquet(results / "compression" / "table.parquet").set_index("label")


def test_every_method_at_every_amount_is_compared(results: Path, table: pd.DataFrame) -> None:
    amounts = ["20%", "50%", "2:4"]
    assert list(table.index) == ["baseline", *(f"{method}, {amount}" for amount in amounts for method in METHODS)]
    assert table["status"].eq("done").all()
    # int(48 * 0.2) and int(64 * 0.2) of their rows; a layer of 64 inputs in seven.
    assert table.loc["wanda, 20%", "share"] == pytest.approx((9 / 48 * (2 * 48 + 2 * 24 + 2 * 64) + 12 / 64 * 64) / 336)
    assert table.loc["wanda, 50%", "share"] == table.loc["lrp_signed, 2:4", "share"] == 0.5
    for protocol in ("sliding", "disjoint"):
        name = f"perplexity_{protocol}"
        assert table[name].nunique() == len(table)
        change = table[name] / table.loc["baseline", name] - 1
        assert (change - table[f"{name}_relative"]).drop("baseline").abs().max() < 1e-12
        beside = table[table["method"] == "wanda_sequential"].set_index(["sparsity", "pattern"])[name]
        against = table[table["method"] == "lrp_signed"].set_index(["sparsity", "pattern"])
        assert ((against[name] - beside) - against[f"{name}_against"]).abs().max() < 1e-9
        assert (against[f"{name}_against_low"] <= against[f"{name}_against"]).all()
        assert (against[f"{name}_against"] <= against[f"{name}_against_high"]).all()
    written = pd.read_csv(results / "compression" / "table.csv")
    assert written["perplexity_sliding"].tolist() == pytest.approx(table["perplexity_sliding"].tolist())


def test_results_hold_every_window(results: Path, table: pd.DataFrame) -> None:
    found = read(results / "compression" / "results.json")
    assert len(found["compressed"]) == len(table) - 1
    assert set(found["methods"]) == set(METHODS)
    assert found["methods"]["lrp_signed"]["sign"] == "signed"
    assert [one["name"] for one in found["general"]] == ["general"]
    for one in (found["baseline"], found["compressed"][0]["perplexity"]):
        assert len(one["disjoint"]["window_losses"]) == one["disjoint"]["num_windows"] > 1


def test_figures_and_tensorboard(results: Path, table: pd.DataFrame) -> None:
    figures = {path.name for path in (results / "compression" / "figures").iterdir()}
    assert figures == {
        f"{name}_{protocol}.{kind}" for name in ("perplexity", "against_wanda_sequential")
        for protocol in ("sliding", "disjoint") for kind in ("png", "svg")
    }  # fmt: skip
    events = board(results)
    tag = "compression_step_is_percent_removed/disjoint/wanda"
    points = {event.step: event.value for event in events.Scalars(tag)}
    assert points == {
        19: pytest.approx(table.loc["wanda, 20%", "perplexity_disjoint"], rel=1e-5),
        50: pytest.approx(table.loc["wanda, 50%", "perplexity_disjoint"], rel=1e-5),
    }
    assert f"{tag}_2_of_4" in events.Tags()["scalars"]


def test_the_page_shows_it_and_is_made_again(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = results / "report.html"
    before = page.read_bytes()
    assert b"Compression of" in before
    assert before.count(b"<img") == 4
    page.unlink()
    main(["report", str(results)])
    assert page.read_bytes() == before
    capsys.readouterr()
    main(["inspect", str(results / "compression" / "results.json")])
    shown = capsys.readouterr().out
    assert "Perplexity (sliding) against wanda_sequential" in shown
    assert "15 compressed models, 0 failed." in shown


def test_the_saved_model_is_the_one_that_was_evaluated(results: Path, table: pd.DataFrame) -> None:
    directory = results / "compressed_model"
    model, tokenizer = (kind.from_pretrained(directory) for kind in (AutoModelForCausalLM, AutoTokenizer))
    rows = TextFile(str(ROOT / "configs/tiny/heldout.txt")).load_rows()
    found = Evaluator().perplexity(model, tokenizer, rows)
    for protocol, result in found.items():
        assert result.perplexity == pytest.approx(table.loc["lrp_signed, 50%", f"perplexity_{protocol}"], rel=1e-6)
    for name, weight in model.named_parameters():
        zeros = (weight == 0).sum(-1).unique().tolist()
        assert zeros == ([weight.shape[1] // 2] if "_proj" in name else [0]), name
    content = json.loads((directory / "compression.json").read_text())
    assert (content["share"], content["options"]["sparsity"], content["options"]["sign"]) == (0.5, 0.5, "signed")
    assert content["base_model"]["weight_hash"]
    assert "50.0% of the weights" in (directory / "README.md").read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_model(directory)
    return str(directory)


def test_a_model_that_breaks_is_reported_and_the_others_go_on(model: str, tmp_path: Path) -> None:
    from sparc3_lightning.evaluation.windows import measure_perplexity as original

    calls = []

    def failing(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:  # the baseline has two protocols
            raise ValueError("made to fail")
        return original(*args, **options)  # type: ignore[arg-type]

    callback = CompressionCallback(["magnitude", "random"], [0.5])
    trainer = make_trainer("replicated", RelevanceCallback(), callback, SameWeights(), default_root_dir=str(tmp_path))
    with mock.patch("sparc3_lightning.evaluation.evaluator.measure_perplexity", failing):
        module = predict(trainer, make_module(model))
    baseline, broken, whole = module.run.compression
    assert (broken["status"], broken["error"]) == ("failed", "ValueError: made to fail")
    assert whole["status"] == "done"
    assert whole["perplexity_disjoint"] != baseline["perplexity_disjoint"]


REFUSED = [
    ({"against": "wandas"}, r"`against` must be one of .*'wanda_sequential'.*got 'wandas'\. Set `CompressionCallback"),
    ({"sparsities": [0.5, 1.0]}, "`sparsities` must lie above 0 and below 1, got 1.0"),
    ({"sparsities": [0.05]}, r"`sparsities` of 0.05 removes nothing from rows of 16 weights \(model.layers.0"),
    ({"sparsities": []}, "`sparsities` must hold at least one share"),
    ({"pattern": "4:2"}, "`pattern` must be N:M with 0 < N < M"),
    ({"pattern": "2:5"}, r"`pattern` 2:5 needs rows whose length is a multiple of 5, got 16 \(model.layers.0"),
    ({"methods": ["auroc"]}, "`methods` must be of"),
    ({"methods": ["gradient"]}, r"needs scores of \['gradient_signed'\], got those of \['lrp'\]"),
    ({"methods": ["lrp"], "signs": ["abs"], "granularity": "neuron"}, "got granularity 'neuron'"),
    ({"methods": ["lrp"], "signs": ["abs"], "modules": "neurons"}, "that leave out model.layers.0.self_attn.q_proj"),
    ({"save": Compression("lrp", 0.5)}, "one of what is evaluated, such as 'random, 50%', got 'lrp, 50%'"),
    ({"data": make_data(toxic=FixedSamples())}, r"by general samples, got none\. Set `data\.general`"),
    ({"alone": True}, "must list `callbacks.RelevanceCallback` before"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_refused_before_any_work(options: dict[str, object], said: str, model: str) -> None:
    of_module = {key: options[key] for key in ("granularity", "modules") if key in options}
    mine = {key: value for key, value in options.items() if key not in ("granularity", "modules", "alone", "data")}
    build = partial(CompressionCallback, **{"methods": ["random"], "sparsities": [0.5], **mine})  # type: ignore[arg-type]
    before = [] if options.get("alone") else [RelevanceCallback()]
    with pytest.raises(ValueError, match=said):
        predict(
            make_trainer("replicated", *before, build()),
            make_module(model, **{"granularity": "weight", **of_module}), options.get("data") or make_data(),
        )  # fmt: skip


def test_never_over_what_is_there(model: str, tmp_path: Path) -> None:
    taken = tmp_path / "compressed_model"
    taken.mkdir()
    (taken / "mine").touch()
    callback = CompressionCallback(["random"], [0.5], save=Compression("random", 0.5))
    predict(
        make_trainer("replicated", RelevanceCallback(), callback, default_root_dir=str(tmp_path)), make_module(model)
    )
    assert [path.name for path in taken.iterdir()] == ["mine"]
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "compressed_model_1")
    assert (saved.model.layers[0].mlp.up_proj.weight == 0).sum(1).unique().tolist() == [8]
