"""`sparc3 plan` reads a config as the run would, without building anything, and says what it needs."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparc3_lightning.cli import SparC3CLI, run
from sparc3_lightning.main import main
from sparc3_lightning.plan.compose import compose
from sparc3_lightning.plan.options import spell_keys
from sparc3_lightning.plan.settings import Settings, settings_of
from tests.runs import QUIET, ROOT
from tests.tiny_files import typed

pytestmark = QUIET

LLAMA = ["--config", "configs/llama3_8b/suppress.yaml"]
SHAPE = ["--model_config", "configs/shapes/llama3_8b.json"]
TINY = ["--config", "configs/tiny/suppress.yaml"]
FSDP = "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy"
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
LINES = [
    TINY,
    LLAMA,
    *([*LLAMA, "--config", f"configs/trainer/{name}.yaml"] for name in ("single_gpu", "fsdp", "fsdp_multinode")),
    *(
        [*LLAMA, "--config", f"configs/llama3_8b/{name}.yaml"]
        for name in ("response_prompts", "completions_25", "signed")
    ),
    [*TINY, "--config", "own.yaml"],
    [*TINY, "--config", "own.yaml", "--config", "more.yaml", "--model.granularity", "weight"],
    [*TINY, "--config=own.yaml", "--config=more.yaml", "--trainer.strategy=ddp"],
    [*TINY, "--config", "none.yaml", "--model.dtype=auto"],
    [*TINY, "--data.behaviours.toxic.init_args.num_prompts", "5", "--data.batch_size=3", "--data.max_tokens=40"],
    [*TINY, "--trainer.devices=4", FSDP, "--trainer.strategy.init_args.data_parallel_size=4"],
    [*TINY, FSDP, "--trainer.strategy.data_parallel_size=1", "--trainer.strategy.tensor_parallel_size=1"],
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's configs, and some of a user's own."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(words: list[str]) -> Settings:
    spelled = spell_keys([word for text in words for word in text.replace("--config=", "--config\n").split("\n")])
    parts = [
        ("config", value) if option == "--config" else tuple(value.split("=", 1))
        for option, value in zip(spelled[::2], spelled[1::2], strict=True)
    ]
    return settings_of(compose(parts), 2, "float16", None, None)


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """By LightningCLI, which writes out every default."""
    monkeypatch.setattr(SparC3CLI, "instantiate_classes", lambda self: None)
    cli = run(words, execute=False)
    config = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False, skip_validation=True))
    return settings_of(config, 2, "float16", None, None)


@pytest.mark.parametrize("words", LINES, ids=lambda words: " ".join(words)[-60:])
def test_same_settings_as_the_run(words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The example names no number of devices; its trainer fragments do.
    words = words if "tiny" in words[1] or "trainer" in words[-1] else [*words, "--trainer.devices=1"]
    assert planned(words) == parsed(words, monkeypatch)


def test_the_config_that_a_run_has_saved(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparC3CLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(SparC3CLI, "_run_subcommand", lambda self, subcommand: None)
    cli = main(["predict", *TINY])
    (place / "config.yaml").write_text(cli._parser("predict").dump(cli.config.predict, skip_none=False))
    assert "weights_only" in (place / "config.yaml").read_text()
    assert planned(["--config", "config.yaml"]) == planned(TINY)


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
    rates.write_text(json.dumps({**content, "model": "a tiny LLaMA (times mean nothing)"}))
    with pytest.raises(ValueError, match="has written on a GPU"):
        plan(capsys, *words, "--rates", str(rates))


REFUSED = {
    "the model's config.json": ([*LLAMA, "--devices", "1"], "Add `--model_config FILE`"),
    "devices": ([*LLAMA, *SHAPE], "Add `--devices N`"),
    "dtype": ([*LLAMA, *SHAPE, "--devices=1", "--model.dtype=int4"], "Set `model.dtype`"),
    "granularity": ([*LLAMA, *SHAPE, "--devices=1", "--model.granularity=layer"], "Set `model.granularity`"),
    "strategy": ([*LLAMA, *SHAPE, "--devices=2", "--trainer.strategy=fsdp"], "`trainer.strategy` must be"),
    "no file": (["--config", "nothing.yaml", *SHAPE], "no such file: nothing.yaml"),
    "no config": (["--config", "README.md", *SHAPE], "README.md"),
    "no sets": (["--config", "configs/trainer/cpu.yaml", *SHAPE], "Set `data.general` and `data.behaviours`"),
    "no model": (["--config", "configs/trainer/cpu.yaml"], "must name a model"),
    "length": ([*LLAMA, *SHAPE, "--devices=1", "--prompt_tokens=9000"], "the model's context of 8192"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((ValueError, OSError), match=message.replace("(", "\\(").replace(".", "\\.")):
        plan(capsys, *words)


def test_as_a_user_types_it() -> None:
    done = typed("plan", *TINY, cwd=ROOT)
    assert done.returncode == 0
    assert "58,800 parameters in float32; neuron scores of 3 layers: 192" in done.stdout
    assert "trainer.accelerator" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
