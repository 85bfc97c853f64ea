"""`sparc3 plan` reads a config as the run would, without building anything, and says what it needs."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.main import main
from sparc3_lightning.plan.command import read_run
from sparc3_lightning.plan.needs import Pass, PlannedSet
from tests.runs import QUIET, ROOT
from tests.tiny import TINY as TINY_MODELS
from tests.tiny_files import typed

pytestmark = QUIET

LLAMA = ["--config", "configs/llama3_8b/suppress.yaml"]
SHAPE = ["--model_config", "configs/shapes/llama3_8b.json"]
TINY = ["--config", "configs/tiny/suppress.yaml"]
FILES = {
    # Sets are replaced, but an entry of the same name keeps what the new one does not say; a list may be appended to.
    "own.yaml": """
data:
  behaviours:
    toxic:
      class_path: sparc3_lightning.data.RealToxicityPrompts
      init_args: {path: configs/tiny/prompts.jsonl, num_prompts: 3}
  max_tokens: null
model: {dtype: bfloat16, modules: [lm_head, "*.q_proj"], evaluator: {init_args: {batch_size: 3}}}
trainer:
  strategy:
    class_path: lightning.pytorch.strategies.ModelParallelStrategy
    init_args: {data_parallel_size: 1, tensor_parallel_size: 1}
  callbacks+: [{class_path: lightning.pytorch.callbacks.ModelSummary}]
""",
    "more.yaml": "trainer: {devices: 2, strategy: {init_args: {data_parallel_size: 2}}}\n",
    "none.yaml": "trainer: {callbacks: [{class_path: callbacks.RelevanceCallback}]}\nmodel: {evaluator: null}\n",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's configs, and some of a user's own."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_are_those_of_the_run(place: Path) -> None:
    settings, module = read_run([*TINY, "--config", "own.yaml", "--config=more.yaml", "--model.granularity", "weight"])
    assert (settings.strategy, settings.num_ranks, settings.dtype) == ("FSDP2", 2, "bfloat16")
    assert settings.warnings == ()
    assert (settings.granularity, settings.modules) == ("weight", ["lm_head", "*.q_proj"])
    assert settings.max_tokens is None
    assert settings.evaluated.batch_size == 3
    assert settings.sets[-1] == PlannedSet("toxic", 3, None)
    assert module.model is None, "nothing is loaded"
    other = read_run([*TINY, "--config=own.yaml", "--config=more.yaml", "--trainer.strategy=ddp"])[0]
    assert (other.strategy, other.evaluated.num_completions) == ("replicated", 4)


def test_what_is_counted_beside_attribution(place: Path) -> None:
    settings = read_run([*TINY, "--config", "configs/tiny/sweep.yaml"])[0]
    assert settings.passes == (Pass("baselines", 5, 1),)
    assert [(one.number, one.with_prompts) for one in settings.trials] == [(1, True), (4, True), (56, True)]
    text = (place / "configs/tiny/heldout.txt").stat().st_size
    assert settings.evaluated.text_tokens == text // 4
    settings = read_run(["--config", "configs/tiny/compress.yaml"])[0]
    # Wanda by one pass; in its published form by two for each of its three models.
    assert settings.passes == (Pass("scores to compress by", 0, 7),)
    assert [(one.number, one.with_prompts) for one in settings.trials] == [(1, False), (15, False)]
    assert read_run([*TINY, "--config", "none.yaml"])[0].trials == ()


def test_circuits_pass_over_their_own_and_the_held_out_samples(place: Path) -> None:
    settings = read_run(["--config", str(ROOT / "configs/tiny/circuit.yaml")])[0]
    # Nine orders at four shares, and the model whole and empty; twins once more; each task as many held out as its own.
    assert settings.passes[-1] == Pass("circuits", 0, (9 * 4 + 2) * (1 + 1 + 2) * 2)


def screen_of(found: Any) -> dict[str, Any]:
    """The screen among what a plan counts beside attribution."""
    return {one["name"]: one for one in found["beside"]}["screen"]  # type: ignore[no-any-return] # JSON


def test_a_screen_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", "configs/llama3_8b/words.yaml", *SHAPE, "--gpu", "h100"]
    one = screen_of(plan(capsys, *words, "--config", "configs/trainer/single_gpu.yaml"))
    assert (one["number"], one["unit"]) == (500, "candidate")
    # A pass over 4,000 tokens of text and the words is 4,000 * 7.5e9 * 2 operations at the least.
    assert 500 * 4000 * 2 * 7.5e9 / 989e12 < one["seconds"] < 300
    several = screen_of(plan(capsys, *words, "--config", "configs/trainer/replicated.yaml", "--devices=8"))
    assert several["seconds"] < one["seconds"] / 7, "eight processes share the candidates"
    without = plan(capsys, *LLAMA, *SHAPE, "--config", "configs/trainer/single_gpu.yaml")["beside"]
    assert "screen" not in [item["name"] for item in without]


def test_a_set_that_is_like_another_is_as_large(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--config", "configs/llama3_8b/words.yaml", *SHAPE, "--gpu", "h100", "--config"]

    def screen(data: str) -> dict[str, Any]:
        file = tmp_path / "more.yaml"
        file.write_text(f"data: {data}\n")
        more = ["configs/trainer/single_gpu.yaml", "--config", str(file)]
        return screen_of(plan(capsys, *words, *more))

    like = "{general: {ordinary: {class_path: sparc3_lightning.data.C4, init_args: {length_like: toxic}}}}"
    assert screen(like)["seconds"] == screen("{}")["seconds"]
    text = "{class_path: sparc3_lightning.data.TextFile, init_args: {path: configs/tiny/general.txt, num_samples: 128}}"
    slow = screen(f"{{behaviours: {{toxic: {text}}}}}")
    assert slow["seconds"] > 10 * screen("{}")["seconds"], "nothing is known to follow: its completions are scored"


def test_what_evaluations_share_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    def held(*words: str, gigabytes: float) -> float:
        share = f"--model.evaluator.init_args.shared_gigabytes={gigabytes}"
        return float(plan(capsys, *words, share)["gpu_bytes_evaluation"])

    large = [*LLAMA, *SHAPE, "--config", "configs/trainer/single_gpu.yaml"]
    assert held(*large, gigabytes=3.0) - held(*large, gigabytes=0.0) == pytest.approx(3e9)
    tiny = held(*TINY, gigabytes=3.0) - held(*TINY, gigabytes=0.0)
    assert 0 < tiny < 1e7, "no more than all that its blocks give"


def test_the_config_that_a_run_has_saved(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(SparC3CLI, "instantiate_classes", lambda self: None)
        patched.setattr(SparC3CLI, "_run_subcommand", lambda self, subcommand: None)
        cli = main(["predict", *TINY])
        (place / "config.yaml").write_text(cli._parser("predict").dump(cli.config.predict, skip_none=False))
    assert "weights_only" in (place / "config.yaml").read_text()
    assert read_run(["--config", "config.yaml"])[0] == read_run(TINY)[0]


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    with contextlib.chdir(ROOT):
        main(["plan", *words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_llama3_8b_on_one_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """What method.md says of it: 16 GB of weights, 2 MB or 30 GB of sums, 11 GB of activations."""
    words = [
        *LLAMA,
        "--config",
        "configs/trainer/single_gpu.yaml",
        *SHAPE,
        "--data.max_tokens",
        "2048",
        "--gpu",
        "h200",
    ]
    neurons = plan(capsys, *words)
    assert neurons["gpu_bytes"]["parameters"] == 2 * 8_030_261_248
    assert neurons["gpu_bytes"]["accumulators"] == 4 * 458_752
    weights = plan(capsys, *words, "--model.granularity=weight", "--model.modules=all")
    assert weights["gpu_bytes"]["accumulators"] == 4 * 7_504_658_432
    assert weights["gpu_bytes"]["activations"] == pytest.approx(11e9, rel=0.03)
    assert weights["warnings"] == neurons["warnings"] == []
    floors = {"neurons": 0.088, "weights": 0.13}
    for name, found in (("neurons", neurons), ("weights", weights)):
        general = found["sets"][0]
        assert (general["num_samples"], general["tokens"], general["batch"]) == (128, 2048, 1)
        assert floors[name] < general["seconds_a_sample_and_gpu"] < 1.4 * floors[name]
        assert found["seconds"] == pytest.approx(3 * general["seconds"] + found["sets"][3]["seconds"])
    assert neurons["sets"][3]["assumed"] == ["tokens"]


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    alone = [*LLAMA, "--devices", "1", "--model_config", "configs/shapes/llama3_70b.json"]
    warning, _ = plan(capsys, *alone)["warnings"]
    assert "parameters. Shard the model: add `--config configs/trainer/fsdp.yaml`." in warning
    sharded = [*LLAMA, "--config", "configs/trainer/fsdp.yaml", *alone[4:]]
    found = plan(capsys, *sharded, "--data.max_tokens=32768")
    assert any("Lower `data.max_tokens` or `data.batch_size`" in warning for warning in found["warnings"])
    (warning,) = plan(capsys, *sharded, "--num_nodes", "2", "--data.max_tokens=2048", "--gpu=h200")["warnings"]
    assert "data_parallel_size: 16` (devices x num_nodes)" in warning, "the run would refuse it"
    assert "evaluation does not fit" in plan(
        capsys, *LLAMA, "--devices=1", *SHAPE, "--model.evaluator.init_args.max_tokens=131072"
    )["warnings"][0]  # fmt: skip


def test_sharding_divides_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*LLAMA, *SHAPE, "--model.granularity=weight", "--model.modules=all", "--devices=8"]
    replicated = plan(capsys, *words)
    sharded = plan(capsys, *words, "--config", "configs/trainer/fsdp.yaml")
    assert replicated["run"]["strategy"] == "replicated"
    assert sharded["run"]["strategy"] == "FSDP2"
    assert sharded["gpu_bytes"]["accumulators"] * 8 == replicated["gpu_bytes"]["accumulators"]
    assert sharded["gpu_bytes"]["parameters"] * 8 == 2 * replicated["gpu_bytes"]["parameters"], "in float32"
    assert replicated["sets"][0]["bytes_sent_a_sample"] < 10 < sharded["sets"][0]["bytes_sent_a_sample"]


def test_rates_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*LLAMA, *SHAPE, "--devices=1"]
    assumed, given = plan(capsys, *words), plan(capsys, *words, "--tflops", "100", "--bandwidth=1", "--memory=12")
    assert given["seconds"] > 3 * assumed["seconds"]
    assert given["gpu"]["memory_bytes"] == 12e9
    assert "tflops" in given["gpu"]["source"]
    rates = tmp_path / "rates.json"
    run = {"samples": "long", "kind": "neuron", "kernel": "triton", "seconds": 0.5}
    runs = [run, {**run, "seconds": 0.9, "kernel": "eager"}, {**run, "samples": "short", "seconds": 0.1}]
    content = {"model": "LLaMA-3-8B's shape", "device": "NVIDIA H200", "runs": runs}
    rates.write_text(json.dumps(content))
    measured = plan(capsys, *words, "--data.max_tokens=2048", "--rates", str(rates))
    assert measured["sets"][0]["seconds_a_sample_and_gpu"] == pytest.approx(0.5)
    assert measured["gpu"]["name"] == "h200"
    rates.write_text("{tflops: 100, bandwidth: 1, memory: 12}")
    own = plan(capsys, *words, "--rates", str(rates))
    assert own["seconds"] == given["seconds"]
    rates.write_text(json.dumps({**content, "model": "a tiny LLaMA (times mean nothing)"}))
    with pytest.raises(ValueError, match="has written on a GPU"):
        plan(capsys, *words, "--rates", str(rates))


REFUSED = {
    "the model's config.json": ([*LLAMA, "--devices", "1"], "Add `--model_config FILE`"),
    "devices": ([*LLAMA, *SHAPE], "Add `--devices N`"),
    "strategy": ([*LLAMA, *SHAPE, "--devices=2", "--trainer.strategy=fsdp"], "`trainer.strategy` must be"),
    "no sets": (["--config", "configs/trainer/cpu.yaml", *SHAPE], "at least one set of samples to attribute"),
    "no model": (["--config", "configs/trainer/cpu.yaml"], "exactly one of `model` and `config`"),
    "length": ([*LLAMA, *SHAPE, "--devices=1", "--prompt_tokens=9000"], "the model's context of 8192"),
    "rate": ([*TINY, "--tflops=-1"], "`tflops` must be a number above 0"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((ValueError, OSError), match=message.replace("(", "\\(").replace(".", "\\.")):
        plan(capsys, *words)


REFUSED_BY_THE_RUN = {
    "dtype": ([*TINY, "--model.dtype=int4"], "int4"),
    "granularity": ([*TINY, "--model.granularity=layer"], "layer"),
    "no file": (["--config", "nothing.yaml", *SHAPE], "nothing.yaml"),
    "no config": (["--config", "README.md", *SHAPE], "README.md"),
    "option": ([*TINY, "--gpuu", "h100"], "--gpuu"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED_BY_THE_RUN.values(), ids=REFUSED_BY_THE_RUN)
def test_refused_as_the_run_refuses_it(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        plan(capsys, *words)
    said = capsys.readouterr().err
    assert said.startswith("sparc3 plan: error: ")
    assert message in said


@pytest.mark.parametrize("family", TINY_MODELS)
def test_every_family(family: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = TINY_MODELS[family]()
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    attention = f"--model.attn_implementation={model.config._attn_implementation}"
    own = ["--model_config", str(tmp_path), "--model.granularity=weight", "--model.modules=all", attention]
    found = plan(capsys, *TINY, *own)
    assert found["model"]["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["seconds"] > 0
    assert min(found["gpu_bytes"].values()) > 0
    assert [item["number"] for item in found["beside"]] == [1, 4]


def test_as_a_user_types_it() -> None:
    done = typed("plan", *TINY, cwd=ROOT)
    assert done.returncode == 0
    assert "58,800 parameters in float32; neuron scores of 3 layers: 192" in done.stdout
    assert "trainer.accelerator" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_table_is_whole_in_80_columns(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the longest of our configs: several nodes, baselines, a sweep."""
    main(["plan", *LLAMA, "--config", "configs/llama3_8b/sweep.yaml", *SHAPE, "--config", "configs/trainer/fsdp.yaml"])
    shown = capsys.readouterr().out
    assert "cells of the sweep" in shown
    assert "\u2026" not in shown, "a figure is cut"
    assert max(map(len, shown.splitlines())) <= 80
