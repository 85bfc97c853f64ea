"""The command line as a user mistypes it: short errors that name the key, exit codes, nothing half written."""

import json
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.accelerators import CPUAccelerator
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sparc3_lightning.cli import run
from sparc3_lightning.messages import short_message
from tests.runs import BRIEF, QUIET, ROOT, TINY, read
from tests.shown import Type, refused, variant
from tests.tiny_files import typed

pytestmark = QUIET


def callbacks(path: Path, *names: str) -> str:
    """The tiny experiment with other callbacks."""
    config = read(ROOT / TINY)
    by_name = {one["class_path"].removeprefix("callbacks."): one for one in config["trainer"]["callbacks"]}
    config["trainer"]["callbacks"] = [by_name[name] for name in names]
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(path)


# What the parser refuses: status 2, nothing written at all


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.treshold=3"], ["sparc3 predict: error", "--model.treshold=3"]),
        (["--data.behaviors=x"], ["Did you mean `data.behaviours`?"]),
        (["--model.kernal=eager"], ["Did you mean `model.kernel`?"]),
        (["--foo", "3"], ["--foo 3"]),
        (["--model.granularity=row"], ["model.granularity", "'neuron', 'weight'", "row"]),
        (["--data.batch_size=many"], ["data.batch_size", "many"]),
        (["--data.evaluation_prompts.treshold=3"], ["data.evaluation_prompts", "RealToxicityPrompts", "'treshold'"]),
        (["--trainer.callbacks=callbacks.Nope"], ["trainer.callbacks", "callbacks.Nope"]),
        (["--data.evaluation_text=sparc3_lightning.data.OrdinaryWords"], ["data.evaluation_text", "TextSet"]),
    ],
    ids=lambda value: value[0],
)
def test_options_that_do_not_exist(words: list[str], said: list[str], type_in: Type) -> None:
    shown = type_in("predict", "--config", TINY, *words)
    refused(shown, 2, *said, "See `sparc3 predict --help`.")
    assert shown.files == []


@pytest.mark.parametrize("place", ["", ".ioi"], ids=["one task", "several"])
def test_a_mistake_in_one_of_two_forms_is_told_alone(place: str, type_in: Type, tmp_path: Path) -> None:
    """`evaluation_task` is a set, or sets by name: nothing is said of the form that was not meant."""
    task: object = {"class_path": "sparc3_lightning.data.IOI", "init_args": {"prt": "all"}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"data": {"evaluation_task": {"ioi": task} if place else task}}))
    shown = type_in("predict", "--config", TINY, "--config", str(tmp_path / "more.yaml"))
    refused(shown, 2, "data.evaluation_task", "'sparc3_lightning.data.IOI'", "Option 'prt'", "Did you mean `part`?")
    assert "Expected" not in shown.err


def test_config_that_is_no_yaml(type_in: Type, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("model: [\n")
    refused(type_in("predict", "--config", str(tmp_path / "broken.yaml")), 2, "config", "line 2")


def test_misspelt_key_of_a_file_is_named_with_the_one_that_was_meant(type_in: Type, tmp_path: Path) -> None:
    (tmp_path / "misspelt.yaml").write_text("data: {genral: {one: {class_path: sparc3_lightning.data.C4}}}\n")
    words = ("predict", "--config", TINY, "--config", str(tmp_path / "misspelt.yaml"))
    refused(type_in(*words), 2, "data.genral", "Did you mean `data.general`?")


def test_misspelt_key_of_a_callback_is_named_with_the_one_that_was_meant(type_in: Type, tmp_path: Path) -> None:
    config = variant(tmp_path / "run.yaml", "num_neurons:", "num_neuron:")
    refused(type_in("predict", "--config", config), 2, "'num_neuron'", "Did you mean `num_neurons`?")


@pytest.mark.parametrize("name", ["predict", "plan"])
def test_key_that_comes_twice(name: str, type_in: Type, tmp_path: Path) -> None:
    """YAML readers keep the last one without a word: a reference set less."""
    config = variant(tmp_path / "run.yaml", "    general_seed1:\n", "    general_seed0:\n")
    lines = Path(config).read_text().splitlines()
    first, second = (number for number, line in enumerate(lines, 1) if line == "    general_seed0:")
    shown = type_in(name, "--config", TINY, "--config", config)
    said = [f"{config}, line {second}: the key `general_seed0` comes a second time, after line {first}"]
    refused(shown, 2, "`--config`", *said)


@pytest.mark.parametrize(
    ("old", "new", "status", "said"),
    [
        ("threshold: 0.9, part", "treshold: 0.9, part", 2, ["data.behaviours", "RealToxicityPrompts", "'treshold'"]),
        ("12, length: 24, seed: 1", "6.0, length: 24, seed: 1", 2, ["num_samples", "'int'", "Got value: ", "6.0"]),
        ("name: tiny,", "name: 2024,", 2, ["trainer.logger", "name", "[str, None]", "Got value: ", "2024"]),
        ("num_draws: 2000", "num_draws: 2000.5", 2, ["num_draws", "'int'", "Got value: ", "2000.5"]),
        (
            "num_neurons: 8",
            "num_neurons: 8.5",
            2,
            ["trainer.callbacks", "num_neurons", "[int, None]", "Got value: ", "8.5"],
        ),
        (
            "num_neurons: 8",
            "num_neurons: 193",
            1,
            ["sparc3: error: ", "between 1 and 192, got 193", "PruningCallback.init_args.num_neurons"],
        ),
        ("num_neurons: 8", "num_neurons: 0", 1, ["sparc3: error: ", "between 1 and 192, got 0"]),
    ],
)
def test_value_in_a_file_that_cannot_be(
    old: str, new: str, status: int, said: list[str], type_in: Type, tmp_path: Path
) -> None:
    refused(type_in("predict", "--config", variant(tmp_path / "run.yaml", old, new)), status, *said)


SETS_NOW = "write its general sets under `data.general` and the behaviour's under `data.behaviours`"


def test_config_of_an_earlier_version_says_what_to_write_instead(type_in: Type, tmp_path: Path) -> None:
    options = {name: {"general": "general_seed*", "behaviour": "toxic"} for name in ("Pruning", "Baseline", "Sweep")}
    options["Compression"], cells = {"general": "general_seed*"}, {"cells": "logs/cells"}
    listed = [
        {"class_path": f"callbacks.{name}Callback", "init_args": {**given, **cells}} for name, given in options.items()
    ]
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump({"data": {"reference_sets": {}}, "trainer": {"callbacks+": listed}}))
    said = [f"`{name}Callback.init_args.{key}`" for name, given in options.items() for key in given]
    said += [f"`--config`: {path} has keys of an earlier version", f"`data.reference_sets`: {SETS_NOW}", "leave out"]
    said += ["`SweepCallback.init_args.cells`: name the directory under `model.trials_dir`"]
    refused(type_in("predict", "--config", TINY, "--config", str(path)), 2, *said)
    shown = type_in("predict", "--config", TINY, "--data.reference_sets.toxic.init_args.threshold=0.5")
    refused(shown, 2, "`--data.reference_sets` is a key of an earlier version", SETS_NOW)


# What a class refuses when it is built: status 1, nothing written at all


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.model=x"], ["exactly one of `model` and `config`", "'x'", "`--model.config null`"]),
        (["--model.tokenizer=null"], ["`tokenizer`", "`model.tokenizer`"]),
        (["--model.evaluator.init_args.toxicity_protocol=document"], ["`decoding`", "toxicity_protocol"]),
        (["--data.evaluation_prompts.threshold=3"], ["`threshold` must be between 0 and 1, got 3.0"]),
        (["--data.batch_size=0"], ["`batch_size` must be at least 1, got 0"]),
        (["--data.max_tokens=0"], ["`max_tokens` must be at least 1, got 0"]),
        (["--trainer.devices=0"], ["trainer cannot be built", "devices='0'", "`trainer.accelerator`", "cpu.yaml"]),
    ],
    ids=lambda value: value[0],
)
def test_values_that_cannot_be(words: list[str], said: list[str], type_in: Type) -> None:
    shown = type_in("predict", "--config", TINY, *words)
    refused(shown, 1, "sparc3: error: ", *said)
    assert shown.files == []


@pytest.mark.parametrize("accelerator", ["mps", "gpu"])
def test_apple_s_gpu_is_refused(accelerator: str, type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.MPSAccelerator.is_available", lambda: True)
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: False)
    shown = type_in("predict", "--config", TINY, f"--trainer.accelerator={accelerator}")
    refused(shown, 1, "MPS (Apple's GPU) is not supported", "float64", "`trainer.accelerator: cpu`")


def test_auto_takes_the_cpu_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.MPSAccelerator.is_available", lambda: True)
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: False)
    monkeypatch.chdir(ROOT)
    cli = run(["--config", TINY, "--trainer.accelerator=auto"], execute=False)
    assert isinstance(cli.trainer.accelerator, CPUAccelerator)
    assert "MPS (Apple's GPU) is not supported" in capsys.readouterr().err


# What only the model or the data can tell: status 1, before any attribution


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.kernel=triton"], ["`kernel: triton` needs", "`model.kernel: auto`"]),
        (
            ["--model.config.model_type=bert"],
            ["`model_type`", "'mistral', 'opt', 'phi3', 'qwen2'", "'bert'", "model.model"],
        ),
        (["--model.config.hidden_size=50"], ["`config`", "hidden size (50)", "model.config"]),
        (["--model.config.hiden_size=48"], ["`config`", "hiden_size", "model.config"]),
        (["--model.config.vocab_size=5"], ["`vocab_size` must be at least 105", "model.config.vocab_size"]),
        (["--model.modules=nothing"], ["`modules`", "'nothing'", "model.modules"]),
        (["--model.target=foo"], ["`target`", "'foo'", "model.target"]),
        (["--trainer.fast_dev_run=true"], ["`trainer.fast_dev_run` is for `fit` and `validate`", "num_samples"]),
        (["--data.evaluation_text.path=nowhere.txt"], ["nowhere.txt", "Set `data.evaluation_text.init_args.path`"]),
        (["--data.behaviours.toxic.path=nowhere.jsonl"], ["nowhere.jsonl", "`data.behaviours.toxic.init_args.path`"]),
        (
            ["--data.evaluation_prompts.path=nowhere.jsonl"],
            ["nowhere.jsonl", "`data.evaluation_prompts.init_args.path`"],
        ),
        (["--data.general=null"], ["`general` must name", "'toxic' is contrasted with", "`data.general`"]),
        (["--data.behaviours=null"], ["`behaviours` must name one set", "got []", "`data.behaviours`"]),
        (["--data.general=null", "--data.behaviours=null"], ["`data.general` and `data.behaviours`"]),
        (
            ["--data.general.general_seed0.num_samples=999"],
            ["`num_samples` is 999", "Lower `data.general.general_seed0.init_args.num_samples`"],
        ),
        (
            ["--data.general.general_seed0.length=100"],
            ["`length`", "context of 64 tokens, got 100", "`data.general.general_seed0.init_args.length`"],
        ),
        (["--trainer.callbacks=callbacks.ScoreWriter"], ["RelevanceCallback", "ScoreWriter", "trainer.callbacks"]),
        (["--trainer.callbacks=callbacks.TensorBoardCallback"], ["callbacks.RelevanceCallback", "trainer.callbacks"]),
    ],
    ids=lambda value: value[0],
)
def test_what_only_the_run_can_tell(words: list[str], said: list[str], type_in: Type) -> None:
    refused(type_in("predict", "--config", TINY, *words), 1, "sparc3: error: ", *said)


@pytest.mark.parametrize(
    "names",
    [
        ["RelevanceCallback", "ScoreWriter", "EvaluationCallback", "PruningCallback"],
        ["RelevanceCallback", "ScoreWriter", "EvaluationCallback"],
    ],
)
def test_evaluation_before_pruning(names: list[str], type_in: Type, tmp_path: Path) -> None:
    """Told at the start, not after hours of attribution."""
    shown = type_in("predict", "--config", callbacks(tmp_path / "run.yaml", *names))
    refused(shown, 1, "trainer.callbacks", "`callbacks.PruningCallback` before `callbacks.EvaluationCallback`")


@pytest.mark.parametrize("which", ["behaviours.toxic", "evaluation_prompts"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "b", "prompt": "  ", "prompt_toxicity": 0.95}', "`prompt` is empty or only whitespace"),
        ('{"id": "b", "prompt": "you fool"', "not valid JSON"),
        ('{"id": "b", "text": "you fool", "prompt_toxicity": 0.95}', "no column `prompt`"),
    ],
)
def test_bad_line_is_named_by_file_and_line(which: str, line: str, said: str, type_in: Type, tmp_path: Path) -> None:
    good = json.dumps({"id": "a", "prompt": "you lazy fool", "prompt_toxicity": 0.95})
    (tmp_path / "mine.jsonl").write_text(f"{good}\n{line}\n")
    shown = type_in("predict", "--config", TINY, f"--data.{which}.path={tmp_path / 'mine.jsonl'}")
    refused(shown, 1, "mine.jsonl, line 2", said)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        *((path, ["the model", path, "no such directory"]) for path in ("/no/where", "./nowhere", "no/where/here")),
        ("someone/something", ["'someone/something'", "HF_TOKEN", "HF_HOME"]),
    ],
)
def test_model_that_is_not_there(model: str, said: list[str], type_in: Type) -> None:
    shown = type_in("predict", "--config", TINY, "--model.config=null", f"--model.model={model}")
    refused(shown, 1, *said, "`model.model`")


def test_model_whose_type_is_unknown(type_in: Type, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    shown = type_in("predict", "--config", TINY, "--model.config=null", f"--model.model={tmp_path}")
    refused(shown, 1, "`model_type`", "'bert'", "'qwen2'")


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("predict", "behaviours.toxic", "`data.behaviours.toxic[0]` (mine-1) must hold token ids"),
        ("predict", "evaluation_prompts", "prompt `mine-1` of `evaluation_prompts` must hold token ids"),
        ("predict", "evaluation_text", "`evaluation_text` must hold token ids"),
        ("test", "evaluation_text", "`evaluation_text` must hold token ids"),
    ],
)
def test_tokenizer_that_is_larger_than_the_model(
    name: str, option: str, said: str, type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before any work, by name, where the embedding would end it on every rank without one."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "configs/tiny/tokenizer")
    config = LlamaConfig(**read(ROOT / TINY)["model"]["config"], vocab_size=len(tokenizer))
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["emoji"])
    tokenizer.save_pretrained(tmp_path / "model")
    row = {"id": "mine-1", "prompt": "you emoji fool", "text": "you emoji fool", "prompt_toxicity": 0.95}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(LlamaForCausalLM, "forward", never)
    words = ["--model.config=null", "--model.tokenizer=null", f"--model.model={tmp_path / 'model'}"]
    words += [f"--data.{option}.path={tmp_path / 'mine.jsonl'}"]
    words += [] if option == "evaluation_text" else [f"--data.{option}.part=all"]
    shown = type_in(name, "--config", TINY, *words)
    refused(shown, 1, said, f"between 0 and {len(tokenizer) - 2}, got 0 to {len(tokenizer) - 1}", "`model.tokenizer`")


@pytest.mark.parametrize(
    ("words", "status", "name"),
    [
        (["predict", "--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["test", "--config", TINY, "--model.recipe=nowhere.json"], 1, "nowhere.json"),
    ],
)
def test_file_that_is_not_there(words: list[str], status: int, name: str, type_in: Type) -> None:
    refused(type_in(*words), status, name)


# What works


def test_print_config_is_a_config(type_in: Type, tmp_path: Path) -> None:
    shown = type_in("predict", "--config", TINY, "--model.sign=signed", "--print_config")
    assert (shown.status, shown.files) == (0, [])
    printed = yaml.safe_load(shown.out)
    assert printed["model"]["sign"] == "signed"
    assert printed["model"]["variant"] == "attnlrp", "defaults are spelled out"
    assert printed["data"]["behaviours"]["toxic"]["init_args"]["threshold"] == 0.9
    (tmp_path / "printed.yaml").write_text(shown.out)
    again = type_in("predict", "--config", str(tmp_path / "printed.yaml"), "--print_config")
    assert yaml.safe_load(again.out) == printed


def test_help_of_a_run_lists_our_options(type_in: Type) -> None:
    shown = type_in("predict", "--help")
    assert shown.status == 0
    assert "usage: sparc3" in shown.out
    for option in ("--model.granularity", "--model.sign", "--data.batch_size", "--trainer.devices"):
        assert option in shown.out
    assert "Hub id or Hugging Face directory" in " ".join(shown.out.split())


def test_later_config_wins(type_in: Type, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("model: {sign: signed}\n")
    shown = type_in("predict", "--config", TINY, "--config", str(tmp_path / "more.yaml"), "--print_config")
    assert yaml.safe_load(shown.out)["model"]["sign"] == "signed"


def test_module_as_typed_equals_the_call(brief_run: Path, tmp_path: Path) -> None:
    """`python -m sparc3_lightning predict` in a process of its own gives the files that `main` gives here."""
    options = [f"--trainer.logger.init_args.save_dir={tmp_path / 'typed'}", *BRIEF]
    shown = typed("predict", "--config", TINY, *options, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stderr
    assert "args parameter" not in shown.stderr
    assert "gemm_4bit_forward" not in shown.stderr
    assert "Pruned against baseline" in shown.stdout
    theirs = tmp_path / "typed" / "tiny" / "version_0"
    for name in ("baseline_eval.json", "pruned_eval.json", "control_eval.json"):
        assert read(theirs / name) == read(brief_run / name)
    recipes = [read(directory / "pruned_neurons.json") for directory in (brief_run, theirs)]
    assert recipes[0]["neurons"] == recipes[1]["neurons"]
    assert AutoModelForCausalLM.from_pretrained(theirs / "pruned_model").config.model_type == "llama"
    typed_in = read(theirs / "provenance.json")["command"]
    assert typed_in[:3] == ["python -m sparc3_lightning", "predict", "--config"]


def test_console_script_is_the_same_entry() -> None:
    entries = (ROOT / "pyproject.toml").read_text()
    assert 'sparc3 = "sparc3_lightning.main:console"' in entries
    assert "console()" in (ROOT / "sparc3_lightning" / "__main__.py").read_text()


def test_short_message_keeps_what_it_does_not_know() -> None:
    assert short_message("one line") == "one line"
    only_alternatives = "Parser key \"a\":\n  Expected a <class 'int'>. Got value: x"
    assert short_message(only_alternatives) == only_alternatives
