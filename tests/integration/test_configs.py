"""Every YAML of the project: parsed, built, and held to what it says it is."""

import contextlib
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from callbacks import (
    BaselineCallback,
    CircuitCallback,
    CompressionCallback,
    EvaluationCallback,
    PruningCallback,
    RelevanceCallback,
    ScoreWriter,
    SweepCallback,
    TensorBoardCallback,
)
from sparc3_lightning.cli import SparC3CLI, run
from sparc3_lightning.data import OrdinaryWords, WordsThatMatter
from sparc3_lightning.data.prompts import in_part
from sparc3_lightning.data.samples import fingerprint
from sparc3_lightning.data.tasks import held_out_sets, tasks_of
from sparc3_lightning.evaluation.generation import Decoding
from sparc3_lightning.pruning.weight_scores import relevance_keys
from sparc3_lightning.trials.screening import Screen
from tests.runs import QUIET, ROOT, read

pytestmark = QUIET

CONFIGS = ROOT / "configs"
DOCUMENT = "llama3_8b/suppress.yaml"
YAMLS = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.y*ml"))


def is_experiment(name: str) -> bool:
    """Whether it names a model to attribute; the others are added after an experiment, or train one."""
    model = read(CONFIGS / name).get("model") or {}
    return ("model" in model or "config" in model) and name not in FITS + COMPRESSIONS + CIRCUITS


# What trains a model.
FITS = ["tiny/fit.yaml", "smollm2_135m/recover.yaml"]
# What compresses a model, by general samples alone.
COMPRESSIONS = [name for name in YAMLS if Path(name).name == "compress.yaml"]
# What asks how much of a model a task needs.
CIRCUITS = [name for name in YAMLS if Path(name).name == "circuit.yaml"]
EXPERIMENTS = [name for name in YAMLS if is_experiment(name)]
TRAINERS = [name for name in YAMLS if name.startswith("trainer/")]
# What adds baselines and a sweep to the experiment beside it.
SWEEPS = {name: str(Path(name).with_name("suppress.yaml")) for name in YAMLS if Path(name).name == "sweep.yaml"}
# `value_vectors` needs words.
SWEEPS["smollm2_135m/sweep.yaml"] = "smollm2_135m/words.yaml"
# What is laid over repetition.yaml, and what that changes of its pruning callback: a list is replaced whole.
REPETITION = "smollm2_135m/repetition.yaml"
SCREEN = Screen(num_candidates=40, num_price_tokens=4000)
OF_REPETITION: dict[str, dict[str, Any]] = {
    "smollm2_135m/repetition_weights.yaml": {"num_neurons": None, "sparsity": 0.0003},
    "smollm2_135m/repetition_screened.yaml": {"screen": SCREEN},
    "smollm2_135m/repetition_weights_screened.yaml": {"num_neurons": None, "sparsity": 0.0003, "screen": SCREEN},
}
# What is laid over circuit.yaml, and what that changes of its callbacks.
OF_CIRCUIT: dict[str, dict[str, dict[str, Any]]] = {
    "smollm2_135m/circuit_weights.yaml": {
        "callbacks.BaselineCallback": {"methods": ["lrp", "gradient", "wanda", "magnitude"]},
        "callbacks.CircuitCallback": {"ablations": ["zero"]},
    },
    "smollm2_135m/circuit_tasks.yaml": {
        "callbacks.BaselineCallback": {"methods": ["lrp", "gradient"]},
    },
}
VARIANTS = [
    name
    for name in YAMLS
    if name not in EXPERIMENTS + TRAINERS + FITS + [*SWEEPS] + COMPRESSIONS + CIRCUITS + [*OF_REPETITION, *OF_CIRCUIT]
]
# What explains words and verifies by removal.
WORDS = [name for name in YAMLS if Path(name).name == "words.yaml"] + ["tiny/weights.yaml"]
COMPOSED = [
    (base, name)
    for base, name in product(EXPERIMENTS, VARIANTS)
    if Path(base).parent == Path(name).parent and base not in WORDS
]

# What a variant changes, and nothing else; a new one must be entered here.
GENERAL, TOXIC = "data.general.general_seed", "data.behaviours.toxic.init_args."
EVALUATOR = "model.evaluator.init_args."
C4_FILE = "local/c4/en/c4-train.00000-of-01024.json.gz"
CHANGES: dict[str, dict[str, Any]] = {
    "llama3_8b/signed.yaml": {"model.sign": "signed"},
    "llama3_8b/disjoint_perplexity.yaml": {f"{EVALUATOR}perplexity_protocols": ["disjoint"]},
    "llama3_8b/completions_25.yaml": {
        f"{EVALUATOR}toxicity_protocol": "rtp",
        f"{EVALUATOR}decoding": Decoding(max_new_tokens=20, temperature=1.0, top_p=0.9, num_completions=25),
    },
    "llama3_8b/document_prompts.yaml": {
        "data.allow_overlap": True,
        f"{TOXIC}part": "all",
        "data.evaluation_prompts.init_args.part": "all",
    },
    "llama3_8b/local_files.yaml": {
        **{f"{GENERAL}{seed}.init_args.path": C4_FILE for seed in range(3)},
        f"{TOXIC}path": "local/rtp/prompts.jsonl",
        "data.evaluation_prompts.init_args.path": "local/rtp/prompts.jsonl",
        "data.evaluation_text.init_args.path": "local/wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet",
        f"{EVALUATOR}scorer.init_args.checkpoint": "local/detoxify/original",
    },
    "llama3_8b/response_prompts.yaml": {
        f"{TOXIC}select_by": "response",
        f"{TOXIC}max_responses": 20000,
        **{f"{GENERAL}{seed}.init_args.crop": "random" for seed in range(3)},
        **{f"{GENERAL}{seed}.init_args.add_bos": False for seed in range(3)},
    },
}


def composed(*names: str) -> list[str]:
    return [word for name in names for word in ("--config", f"configs/{name}")]


def build(*names: str, options: tuple[str, ...] = ()) -> SparC3CLI:
    with contextlib.chdir(ROOT):
        return run([*composed(*names), *options], execute=False)


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Parse and build nothing: a GPU's trainer cannot be built here."""

    def parsed(*names: str) -> Namespace:
        with monkeypatch.context() as patched:
            patched.setattr(SparC3CLI, "instantiate_classes", lambda self: None)
            return build(*names).config

    return parsed


def flat(config: Namespace) -> dict[str, Any]:
    """Every value under its dotted name; sets and decodings are taken apart too."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        nested = Namespace(value) if isinstance(value, dict) else value
        found |= {f"{key}.{k}": v for k, v in flat(nested).items()} if isinstance(nested, Namespace) else {key: value}
    return found


def test_every_yaml_is_tested() -> None:
    """A new file is an experiment (it names a model), a trainer, or a variant in an experiment's directory."""
    assert DOCUMENT in EXPERIMENTS
    assert {"tiny/suppress.yaml", "demo/suppress.yaml"} < set(EXPERIMENTS)
    assert set(FITS) < set(YAMLS)
    assert {name for _, name in COMPOSED} == set(VARIANTS) == set(CHANGES), "enter what a new variant changes"
    assert {Path(name).stem for name in TRAINERS} == {"cpu", "single_gpu", "replicated", "fsdp", "fsdp_multinode"}
    assert set(TRAINERS) == {"trainer/" + name for name in STRATEGIES}, "enter a new fragment's strategy"
    assert sorted(path.name for path in (ROOT / "tests" / "configs").iterdir()) == [
        "compress.yaml",
        "compress_stories.yaml",
        "contrast.yaml",
        "fit.yaml",
        "real_model.yaml",
        "real_model_lengths.yaml",
        "real_model_methods.yaml",
        "real_model_published.yaml",
        "real_model_responses.yaml",
        "realtext.yaml",
        "smollm2_behaviours_local.yaml",
        "smollm2_behaviours_twice.yaml",
        "smollm2_circuit_local.yaml",
        "smollm2_recover_local.yaml",
        "smollm2_repetition_local.yaml",
        "smollm2_suppress_local.yaml",
        "smollm2_words_local.yaml",
        "sweep.yaml",
        "two_scorers.yaml",
    ]


@pytest.mark.parametrize("name", ["suppress", "words", "behaviours"])
def test_files_stand_in_the_place_of_every_source(name: str) -> None:
    def sets(config: dict[str, Any]) -> dict[str, Any]:
        kinds = ("general", "behaviours", "contrast", "price")
        found = {f"{kind}.{key}": one for kind in kinds for key, one in config["data"].get(kind, {}).items()}
        return found | {key: config["data"][key] for key in ("evaluation_prompts", "evaluation_text")}

    local = read(ROOT / f"tests/configs/smollm2_{name}_local.yaml")
    given = sets(local)
    assert given.keys() == sets(read(ROOT / f"configs/smollm2_135m/{name}.yaml")).keys()
    assert all(one["init_args"]["path"].startswith("../shared/fixtures/") for one in given.values())
    assert "checkpoint" in local["model"]["evaluator"]["init_args"]["scorer"]["init_args"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_is_built(name: str) -> None:
    cli = build(name)
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    chain = [RelevanceCallback, ScoreWriter, PruningCallback, EvaluationCallback, TensorBoardCallback]
    assert [kind for kind in kinds if kind in chain] == chain
    assert cli.config.trainer.inference_mode is False
    assert cli.config.trainer.use_distributed_sampler is False
    assert cli.config.trainer.logger.init_args.default_hp_metric is False
    seeds = ["general_seed0", "general_seed1", "general_seed2"]
    named = {"demo/suppress.yaml": ["kind_words", "prose"], **{key: ["ordinary"] for key in WORDS}}
    named["smollm2_135m/repetition.yaml"] = ["diverse"]
    named |= {"tiny/behaviours.yaml": ["ordinary"], "smollm2_135m/behaviours.yaml": []}
    assert list(cli.datamodule.general) == named.get(name, seeds)


@pytest.mark.parametrize("name", WORDS)
def test_words_are_explained_and_candidates_screened(name: str) -> None:
    cli = build(name)
    assert (cli.model.attribution_options["target"], cli.model.attribution_options["explain"]) == (
        "next_token",
        "logprob",
    )
    assert cli.model.attribution_options["sign"] == "signed"
    (pruning,) = [one for one in cli.trainer.callbacks if isinstance(one, PruningCallback)]
    assert pruning.general_penalty == "abs", "a neuron's value is T minus |C|"
    assert pruning.screen is not None
    if name == "tiny/weights.yaml":
        assert (pruning.num_neurons, pruning.sparsity) == (None, 0.001)
        assert (cli.model.granularity, cli.model.modules_to_attribute) == ("weight", "all")
    else:
        assert pruning.screen.num_candidates > pruning.num_neurons
    assert isinstance(cli.datamodule.behaviours["toxic"], WordsThatMatter)
    assert isinstance(cli.datamodule.general["ordinary"], OrdinaryWords)
    assert cli.datamodule.general["ordinary"].length_like == "toxic"
    assert cli.datamodule.price, "text that chooses, and is not evaluated on"


@pytest.mark.parametrize("name", OF_REPETITION)
def test_repetition_is_pruned_otherwise_and_nothing_else_changes(name: str) -> None:
    before, after = build(REPETITION), build(REPETITION, name)
    for theirs, ours in zip(before.trainer.callbacks, after.trainer.callbacks, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(theirs, PruningCallback):
            assert vars(ours) == {**vars(theirs), **OF_REPETITION[name]}
        elif isinstance(theirs, EvaluationCallback):
            assert vars(ours) == vars(theirs)
    assert after.trainer.logger.name == name.removesuffix(".yaml").replace("/", "_")
    of_weights = after.model.granularity == "weight"
    assert of_weights == (OF_REPETITION[name].get("sparsity") is not None)
    assert (after.model.modules_to_attribute == "all") == of_weights
    is_screened = "screen" in OF_REPETITION[name]
    more = {"max_responses": 2048} if is_screened else {}
    ours, theirs = after.datamodule.behaviours["repetitive"], before.datamodule.behaviours["repetitive"]
    assert str(ours) == str(replace(theirs, **more))
    assert str(after.datamodule.general) == str(before.datamodule.general)
    assert list(after.datamodule.price) == ["wikitext2"] * is_screened
    drawn = {"temperature": 0.7, "top_p": 0.9} if is_screened else {}
    assert after.model.evaluator.decoding == replace(before.model.evaluator.decoding, **drawn)


@pytest.mark.parametrize("name", OF_CIRCUIT)
def test_other_circuits_and_nothing_else_changes(name: str, parse: Any) -> None:
    base, of_callbacks = "smollm2_135m/circuit.yaml", OF_CIRCUIT[name]
    before, after = flat(parse(base)), flat(parse(base, name))
    changed = {key: value for key, value in after.items() if before.get(key) != value and key != "config"}
    pairs = zip(before["trainer.callbacks"], changed.pop("trainer.callbacks"), strict=True)
    others = {ours["class_path"]: (vars(theirs["init_args"]), vars(ours["init_args"]))
              for theirs, ours in pairs if theirs != ours}  # fmt: skip
    assert others.keys() == of_callbacks.keys()
    for callback, (theirs, ours) in others.items():
        assert all(theirs[option] != value for option, value in of_callbacks[callback].items())
        assert ours == theirs | of_callbacks[callback]
    assert changed.pop("trainer.logger.init_args.name") == name.removesuffix(".yaml").replace("/", "_")
    assert {key for key in changed if not key.startswith("data.")} == (
        {"model.granularity", "model.modules"} if name.endswith("weights.yaml") else set()
    )
    assert bool([key for key in changed if key.startswith("data.")]) == name.endswith("tasks.yaml")
    build(base, name)


def test_a_second_task_of_a_file_that_is_balanced_in_either_half() -> None:
    """As many sentences in the singular as in the plural, and none in both halves."""
    data = build("smollm2_135m/circuit.yaml", "smollm2_135m/circuit_tasks.yaml").datamodule
    (agreement, held_out) = data.behaviours["agreement"], data.evaluation_task["agreement"]
    halves = [list(one.source.rows()) for one in (agreement, held_out)]
    assert halves[0] == halves[1]
    for part, one in (("attribution", agreement), ("evaluation", held_out)):
        rows = [row.values for row in halves[0] if in_part(part, fingerprint(row.values["template"]))]
        assert one.part == part
        assert one.num_samples == len(rows) == 32
        assert [sum(row["right"] in ending for row in rows) for ending in (("is", "was"), ("are", "were"))] == [16, 16]


def test_every_behaviour_is_contrasted_with_samples_of_its_own() -> None:
    cli = build("smollm2_135m/behaviours.yaml")
    names = ["identity_attack", "insult", "threat", "profanity"]
    assert cli.datamodule.differentials() == {name: [f"{name}_contrast"] for name in names}
    attributes = [one.attribute for one in cli.datamodule.behaviours.values()]
    columns = [one.column or one.attribute for one in cli.datamodule.behaviours.values()]
    assert columns == [*cli.datamodule.behaviours]
    assert all(one.among == columns for one in cli.datamodule.behaviours.values()), "no two share a text"
    assert [(one.seed, one.num_seeds) for one in cli.datamodule.contrast.values()] == [(seed, 4) for seed in range(4)]
    assert attributes == ["identity_attack", "insult", "threat", "obscene"], "Detoxify's names"
    assert [one.length_like for one in cli.datamodule.contrast.values()] == names
    assert len({one.seed for one in cli.datamodule.contrast.values()}) == 4
    (pruning,) = [one for one in cli.trainer.callbacks if isinstance(one, PruningCallback)]
    assert (pruning.recipes, pruning.specific_to) == (["each", "shared"], ["threat"])


@pytest.mark.parametrize(("name", "base"), SWEEPS.items())
def test_sweep_is_built_after_its_experiment_s_callbacks(name: str, base: str) -> None:
    cli = build(base, name)
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    # Where there is a screen, scores come before it.
    chain = [TensorBoardCallback, SweepCallback]
    assert [kind for kind in kinds if kind in chain] == chain
    baselines, sweep = (
        next(one for one in cli.trainer.callbacks if isinstance(one, kind))
        for kind in (BaselineCallback, SweepCallback)
    )
    assert {cell.key for cell in sweep.cells} <= {*baselines.keys, "lrp"}
    assert kinds.index(BaselineCallback) < kinds.index(PruningCallback if base in WORDS else SweepCallback)


def test_smollm2_s_published_rule_is_the_document_s() -> None:
    """The same rule and share of the neurons, and the evaluation of its words beside it."""
    small, document = build("smollm2_135m/suppress.yaml"), build(DOCUMENT)
    chosen = [
        next(one for one in cli.trainer.callbacks if isinstance(one, PruningCallback)) for cli in (small, document)
    ]
    assert len({(one.scope, one.general_weight, one.general_penalty) for one in chosen}) == 1
    options = ("sign", "target", "variant", "explain")
    assert all(small.model.attribution_options[key] == document.model.attribution_options[key] for key in options)
    assert chosen[0].num_neurons / (30 * 1536) == pytest.approx(chosen[1].num_neurons / 458_752, rel=0.01)
    words = read(CONFIGS / "smollm2_135m" / "words.yaml")
    ours = read(CONFIGS / "smollm2_135m" / "suppress.yaml")
    assert ours["model"]["evaluator"] == words["model"]["evaluator"]
    assert all(ours["data"][key] == words["data"][key] for key in ("evaluation_prompts", "evaluation_text"))


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compression_is_built_and_all_its_scores_are_made(name: str) -> None:
    cli = build(name)
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    chain = [RelevanceCallback, ScoreWriter, CompressionCallback, TensorBoardCallback]
    assert [kind for kind in kinds if kind in chain] == chain
    compression = next(one for one in cli.trainer.callbacks if isinstance(one, CompressionCallback))
    assert relevance_keys(compression.keys) == ["lrp_signed"]
    assert (cli.model.granularity, cli.model.modules_to_attribute) == ("weight", "all")
    assert compression.against in compression.keys
    assert cli.datamodule.reference_names == ["general"]
    assert cli.model.evaluator.perplexity_protocols == ["sliding", "disjoint"]


def test_the_paper_s_compression() -> None:
    cli = build("llama3_8b/compress.yaml")
    general = cli.datamodule.reference_sets["general"]
    compression = next(one for one in cli.trainer.callbacks if isinstance(one, CompressionCallback))
    assert (general.num_samples, general.length, general.crop, general.add_bos) == (128, 2048, "random", False)
    assert (cli.model.evaluator.window, cli.model.evaluator.stride) == (2048, 512)
    assert compression.keys == ["lrp_signed", "wanda_sequential", "wanda", "magnitude", "random"]
    amounts = [number / 10 for number in range(1, 8)]
    assert list(dict.fromkeys(one.sparsity for one in compression.compressions)) == [*amounts, None]
    assert compression.compressions[-1].pattern == "2:4"


@pytest.mark.parametrize("name", CIRCUITS)
def test_circuit_is_asked_templates_that_nothing_was_scored_by(name: str) -> None:
    cli = build(name)
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    chain = [RelevanceCallback, ScoreWriter, BaselineCallback, CircuitCallback, TensorBoardCallback]
    assert [kind for kind in kinds if kind in chain] == chain
    assert (cli.model.attribution_options["target"], cli.model.attribution_options["explain"]) == (
        "next_token",
        "logit",
    )
    circuit = next(one for one in cli.trainer.callbacks if isinstance(one, CircuitCallback))
    assert circuit.ablations == ["zero", "mean", "corrupted"]
    sets = cli.datamodule.behaviours
    tasks, held_out = tasks_of(sets), held_out_sets(cli.datamodule.evaluation_task, sets)
    assert list(tasks) == list(held_out)
    for task, draws in tasks.items():
        _, asked = held_out[task]
        assert asked.part == "evaluation"
        assert type(asked) is type(sets[draws[0]])
        assert {sets[draw].part for draw in draws} == {"attribution"}
        assert len({sets[draw].seed for draw in draws}) == len(draws)
    assert len(tasks["ioi"]) > 1


@pytest.mark.parametrize("name", FITS)
def test_fit_is_built(name: str) -> None:
    cli = build(name)
    assert (cli.model.model_config is None) == (cli.model.model_name is not None)
    assert cli.config.trainer.logger.init_args.default_hp_metric is False
    sources = [cli.datamodule.train_text.source.name, cli.datamodule.val_text.source.name]
    of_file = {"tiny/fit.yaml": ["general.txt", "heldout.txt"]}
    assert [Path(one).name for one in sources] == of_file.get(name, ["c4", "wikitext"])


def test_recovery_trains_on_text_that_nothing_else_reads() -> None:
    recover, local = build("smollm2_135m/recover.yaml"), read(ROOT / "tests/configs/smollm2_recover_local.yaml")
    train = recover.datamodule.train_text
    for name in (one for one in EXPERIMENTS if one.startswith("smollm2_135m/")):
        used = build(name).datamodule
        for source in [*used.reference_sets.values(), *used.price.values(), used.evaluation_text]:
            assert (source.source.dataset, source.source.split) != (train.source.dataset, train.source.split), name
    steps, data = recover.trainer.max_steps, recover.datamodule
    assert steps * data.train_batch_size * data.block_length < 400 * train.num_samples, "C4's documents are longer"
    assert recover.model.dtype_name == "float32"
    assert recover.model.recipe_path is None, "the command names it"
    for name, source in local["data"].items():
        assert source["init_args"]["path"].startswith("../shared/fixtures/"), name


@pytest.mark.parametrize(("base", "name"), COMPOSED)
def test_variant_changes_what_it_says_and_no_more(base: str, name: str, parse: Any) -> None:
    before, after, expected = flat(parse(base)), flat(parse(base, name)), dict[str, Any]()
    for key, value in CHANGES[name].items():
        expected |= flat(Namespace({key: vars(value) if isinstance(value, Decoding) else value}))
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    assert set(before) <= set(after)
    # A value may be written out though it is the base's own.
    assert {key: value for key, value in changed.items() if key != "config"} == {
        key: value for key, value in expected.items() if before.get(key) != value
    }
    assert changed.keys() - {"config"}, "it changes nothing"
    build(base, name)


@pytest.mark.parametrize(("base", "name"), list(product(EXPERIMENTS + COMPRESSIONS + CIRCUITS, TRAINERS)))
def test_trainer_fragment_changes_nothing_but_the_machine(base: str, name: str, parse: Any) -> None:
    before, after = flat(parse(base)), flat(parse(base, name))
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)} - {"config"}
    machine = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
    assert all(key.startswith(machine) for key in changed), changed
    for key in ("trainer.accelerator", "trainer.devices", "trainer.num_nodes"):
        assert after[key] == read(CONFIGS / name)["trainer"][key.removeprefix("trainer.")]


STRATEGIES: dict[str, type] = {
    "cpu.yaml": SingleDeviceStrategy,
    "single_gpu.yaml": SingleDeviceStrategy,
    "replicated.yaml": DDPStrategy,
    "fsdp.yaml": ModelParallelStrategy,
    "fsdp_multinode.yaml": ModelParallelStrategy,
}


@pytest.mark.parametrize(("base", "name"), list(product(EXPERIMENTS + COMPRESSIONS + CIRCUITS, TRAINERS)))
def test_trainer_fragment_is_built_on_a_cpu(base: str, name: str) -> None:
    """The same strategy, devices and nodes, but for the accelerator that a test machine has."""
    asked = read(CONFIGS / name)["trainer"]
    trainer = build(base, name, options=("--trainer.accelerator=cpu",)).trainer
    strategy = trainer.strategy
    assert type(strategy) is STRATEGIES[Path(name).name]
    assert trainer.num_nodes == asked["num_nodes"]
    if asked["devices"] != "auto":
        assert trainer.num_devices == asked["devices"]
    if isinstance(strategy, ModelParallelStrategy):
        # Trap 5: the defaults would put tensor parallelism across the node, and data parallelism across nodes.
        assert strategy._data_parallel_size == asked["devices"] * asked["num_nodes"]
        assert strategy._tensor_parallel_size == 1
        assert strategy._save_distributed_checkpoint is False
