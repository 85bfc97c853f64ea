"""`sparc3 plan`: a config read as the run reads it, what it needs, and that as one table that fits 80 columns."""

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedConfig

from sparc3_lightning.cli import SparC3CLI, run
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.files import read_json
from sparc3_lightning.messages import short_message
from sparc3_lightning.models.checkpoint import CONFIG
from sparc3_lightning.models.hub import local_directory
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.plan.memory import (
    disk_bytes,
    evaluation_bytes,
    gpu_bytes,
    host_bytes,
    num_scores,
    screen_bytes,
    set_bytes,
    step_bytes,
)
from sparc3_lightning.plan.needs import PlannedSet, Settings, settings_of
from sparc3_lightning.plan.pace import Pace, elapsed, longest
from sparc3_lightning.plan.rates import DEFAULT_GPU, GPUS, RATE_OPTIONS, Assumed, Rates, read_rates, with_rates
from sparc3_lightning.plan.sizes import Sizes, model_config
from sparc3_lightning.trials.screening import PRICE_WINDOW

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


class _ReadCLI(SparC3CLI):
    """Reads a config as `predict` does: defaults, composition, refusals. Neither model nor data is loaded."""

    group: Any
    callbacks: list[Callback]

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Under the plan's name, and without a word on arguments that are not those of the command line."""
        self._parser("predict").prog = "sparc3 plan"
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def _set_seed(self) -> None: ...

    def instantiate_classes(self) -> None:
        """The small objects that the config names; no trainer, logger or strategy, which would look at the machine."""
        self.group = self.config.predict.trainer.clone().as_dict()
        for name, value in self.group.items():
            if name != "callbacks" and value is not None:
                self.config.predict.trainer[name] = None
        try:
            found = self.parser.instantiate_classes(self.config).predict
        except ValueError as error:
            raise ValueError(short_message(str(error))) from error
        self.model, self.datamodule, self.callbacks = found.model, found.data, found.trainer.callbacks or []

    def _run_subcommand(self, subcommand: str) -> None: ...


def read_run(words: Sequence[str], dtype: str = "float32") -> tuple[Settings, SparC3Module]:
    """The settings of a run, and its model's module, not loaded.

    Args:
        words: Options of `sparc3 predict`.
        dtype: Type of the checkpoint's weights, for `dtype: auto`.

    Raises:
        SystemExit: An option that the run would refuse, with status 2.
        ValueError: A value that it would refuse, or that a plan needs.
    """
    with redirect_stdout(sys.stderr):
        cli = run(["predict", *words], kind=_ReadCLI)
    assert isinstance(cli, _ReadCLI)
    assert isinstance(cli.datamodule, SparC3DataModule)
    module: SparC3Module = cli.model
    return settings_of(cli.group, cli.callbacks, module, cli.datamodule, dtype), module


def planned(options: argparse.Namespace) -> dict[str, Any]:
    """What a run needs, as JSON.

    Args:
        options: Of `sparc3 plan`; those that are not its own, `words`, are the run's.

    Raises:
        SystemExit: Options that cannot be, with status 2.
        ValueError: The run would refuse the config, or a plan needs more.
        OSError: A file cannot be read, or the model's config.json is not here.
    """
    words = list(options.words)
    for key in ("devices", "num_nodes"):
        words += [f"--trainer.{key}={getattr(options, key)}"] if getattr(options, key) else []
    if options.model_config is not None:
        words += [f"--model.model={options.model_config}", "--model.config=null"]
    settings, module = read_run(words)
    config, where = _config_of(module)
    if module.dtype_name == "auto":
        settings, _ = read_run(words, _dtype_of(config))
    rates = _rates(options, settings.granularity)
    assumed = Assumed(options.num_prompts, options.prompt_tokens, options.text_tokens)
    found = estimate(settings, Sizes(config, module.attn_implementation), rates, assumed)
    found["model"] = {"config": where, **found["model"]}
    if options.gpu is None and settings.accelerator == "cpu":
        found["warnings"].append(f"`trainer.accelerator` is cpu; memory and seconds are those of one {rates.name}.")
    return found


def _rates(options: argparse.Namespace, granularity: str) -> Rates:
    rates = GPUS[options.gpu or DEFAULT_GPU]
    if options.rates is not None:
        rates = read_rates(options.rates, GPUS[options.gpu] if options.gpu else None, granularity)
    given = {name: getattr(options, name) for name in RATE_OPTIONS if getattr(options, name) is not None}
    return with_rates(rates, given, "as given")


def _dtype_of(config: PreTrainedConfig) -> str:
    return str(config.dtype or "float32").removeprefix("torch.")


def _config_of(module: SparC3Module) -> tuple[PreTrainedConfig, str]:
    """A model's config, from a file, a directory, the hub's cache or the YAML, and where from."""
    if module.model_config is not None:
        fields = {"vocab_size": _vocabulary(module.tokenizer_name), **module.model_config}
        return model_config(fields, "`model.config`"), "`model.config`"
    name = str(module.model_name)
    directory = local_directory(name, module.revision, CONFIG)
    path = Path(name) if directory is None else directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"the config.json of {name!r} is neither in a directory of that name nor in the hub's cache, and a plan "
            "downloads nothing. Add `--model_config FILE`: a config.json, such as configs/shapes/llama3_8b.json."
        )
    return model_config(read_json(path, "model config"), str(path)), str(path)


def _vocabulary(tokenizer: str | None) -> int | None:
    """Tokens of a local tokenizer: of a model from random weights, the vocabulary unless told otherwise."""
    path = Path(str(tokenizer)) / "tokenizer.json"
    if not path.is_file():
        return None
    content = read_json(path, "tokenizer")
    vocabulary = content["model"]["vocab"]
    tokens = vocabulary if isinstance(vocabulary, dict) else [token for token, _ in vocabulary]
    return len({*tokens, *(token["content"] for token in content.get("added_tokens", []))})


@dataclass(frozen=True)
class SetPlan:
    """One reference set under the plan.

    Attributes:
        planned: What the config says.
        num_samples: Its samples.
        tokens: Length of each.
        settings: The run.
        pace: How fast it goes.
    """

    planned: PlannedSet
    num_samples: int
    tokens: int
    settings: Settings
    pace: Pace

    @property
    def batch(self) -> int:
        """Samples of a full batch on one rank."""
        return self.settings.samples_a_batch(self.tokens, self.num_samples)

    @cached_property
    def step(self) -> dict[str, float]:
        """Seconds of a full batch, by what they go into."""
        return self.pace.step(self.tokens, self.batch)

    @cached_property
    def seconds(self) -> float:
        """Of an attribution of the whole set."""
        full, rest = self._batches
        last = elapsed(self.pace.step(self.tokens, rest)) if rest else 0.0
        return full * elapsed(self.step) + last + set_bytes(self.settings, self.pace.attributed) / self.pace.link

    @property
    def forward_seconds(self) -> float:
        """Of one forward pass over the whole set."""
        full, rest = self._batches
        last = self.pace.forward(self.tokens, rest) if rest else 0.0
        return full * self.pace.forward(self.tokens, self.batch) + last

    @property
    def _batches(self) -> tuple[int, int]:
        """Full batches of each rank, and samples of a last one."""
        full, rest = divmod(self.num_samples, self.batch * self.settings.num_ranks)
        return full, -(-rest // self.settings.num_ranks)

    def to_json(self) -> dict[str, Any]:
        """What is told of it."""
        sent = sum(step_bytes(self.settings, self.pace.sizes, self.pace.attributed).values())
        return {
            "name": self.planned.name,
            "num_samples": self.num_samples,
            "tokens": self.tokens,
            "assumed": [name for name in ("num_samples", "tokens") if getattr(self.planned, name) is None],
            "batch": self.batch,
            "seconds_a_sample_and_gpu": elapsed(self.step) / self.batch,
            "bytes_sent_a_sample": sent / self.batch,
            "seconds": self.seconds,
        }


def _set_plan(planned: PlannedSet, settings: Settings, pace: Pace, assumed: Assumed) -> SetPlan:
    number, tokens = planned.num_samples or assumed.num_prompts, planned.tokens or assumed.prompt_tokens
    if tokens > pace.sizes.context:
        raise ValueError(
            f"`length` must be at most the model's context of {pace.sizes.context} tokens, got {tokens}, of the "
            f"reference set {planned.name!r}. Set its `init_args.length` under `data`, or `--prompt_tokens`."
        )
    return SetPlan(planned, number, tokens, settings, pace)


def estimate(settings: Settings, sizes: Sizes, rates: Rates, assumed: Assumed) -> dict[str, Any]:
    """Everything that `sparc3 plan` says, as JSON.

    Args:
        settings: The run.
        sizes: Its model's.
        rates: The GPU's.
        assumed: What stands in for numbers that no config holds.

    Raises:
        ValueError: The config names no reference set; samples longer than the context; a type without known rates.
    """
    if not settings.sets:
        raise ValueError(
            "a config must name at least one set of samples to attribute. Set `data.general` and `data.behaviours`."
        )
    pace = Pace(settings, sizes, rates)
    attributed = pace.attributed
    sets = [_set_plan(one, settings, pace, assumed) for one in settings.sets]
    memory = gpu_bytes(settings, sizes, pace.work, attributed, [(item.tokens, item.batch) for item in sets])
    total = sum(item.seconds for item in sets)
    phases = {name: sum(item.step[name] * item.seconds / elapsed(item.step) for item in sets) for name in sets[0].step}
    beside = [*_passes(settings, sets), *_screening(settings, sets, pace), *_trials(settings, pace, assumed)]
    window = min(settings.evaluated.window, sizes.context)
    evaluates = bool(settings.trials) and settings.evaluated.text_tokens != 0
    evaluation = evaluation_bytes(settings, sizes, window) if evaluates else None
    word_tokens = sum(item.num_samples * item.tokens for item in sets)
    kept = 0 if settings.screened_by is not None else word_tokens
    screening = None if settings.screen is None else screen_bytes(settings, sizes, kept)
    return {
        "model": {
            "num_parameters": sizes.num_parameters,
            "num_attributed_layers": len(attributed),
            "num_attributed_weights": sum(linear.numel for linear in attributed),
            "num_scores": num_scores(attributed, settings.granularity),
        },
        "run": {
            "strategy": settings.strategy, "devices": settings.ranks_per_node, "num_nodes": settings.num_nodes,
            "dtype": settings.dtype, "granularity": settings.granularity,
        },
        "gpu": {"name": rates.name, "memory_bytes": rates.memory, "source": rates.source},
        "gpu_bytes": memory,
        "gpu_bytes_attribution": sum(memory.values()),
        "gpu_bytes_screen": screening,
        "gpu_bytes_evaluation": evaluation,
        "host_bytes": host_bytes(settings, sizes, attributed),
        "disk_bytes": disk_bytes(settings, sizes, attributed),
        "sets": [item.to_json() for item in sets],
        "seconds": total,
        "gpu_hours": total * settings.num_ranks / 3600,
        "seconds_by_phase": phases,
        "beside": beside,
        "seconds_beside": sum(item["seconds"] for item in beside),
        "dominated_by": {"memory": max(memory, key=memory.__getitem__), "time": longest(phases)},
        "warnings": [*settings.warnings, *_warnings(settings, rates, memory, evaluation)],
    }  # fmt: skip


def _passes(settings: Settings, sets: Sequence[SetPlan]) -> Iterator[dict[str, Any]]:
    """What else scores the sets; a gradient-based method takes as long as the run's own."""
    for one in settings.passes:
        seconds = sum(one.attributions * item.seconds + one.forward_passes * item.forward_seconds for item in sets)
        yield {"name": one.name, "number": one.attributions + one.forward_passes, "unit": "pass", "seconds": seconds}


def _screening(settings: Settings, sets: Sequence[SetPlan], pace: Pace) -> Iterator[dict[str, Any]]:
    """Candidates removed one at a time: at most each passes the words and the price text from the first block on.

    Without words each completes the behaviour's prompts.
    """
    screen = settings.screen
    if screen is None:
        return
    windows = math.ceil(screen.num_price_tokens / PRICE_WINDOW)
    at_once = max(1, screen.max_tokens // PRICE_WINDOW)
    text = math.ceil(windows / at_once) * pace.forward(PRICE_WINDOW, at_once, PRICE_WINDOW)
    # Every rank measures candidates of its own, unless it holds a part of the model only.
    together = settings.num_ranks if settings.is_sharded else 1
    prompts = next((item for item in sets if item.planned.name == settings.screened_by), None)
    if prompts is None:
        words = sum(item.num_samples * item.tokens for item in sets)
        effect = math.ceil(words / screen.max_tokens) * pace.forward(PRICE_WINDOW, at_once)
    else:
        effect = pace.generation(prompts.num_samples, prompts.tokens, together)
    number = math.ceil(screen.num_candidates / (settings.num_ranks // together))
    joint = 1 if screen.max_price is None else settings.num_neurons
    seconds = settings.num_recipes * ((number + joint + 1) * text + (number + 2) * effect)  # one of the model as it is
    yield {
        "name": "screen",
        "number": settings.num_recipes * screen.num_candidates,
        "unit": "candidate",
        "seconds": seconds,
    }


def _trials(settings: Settings, pace: Pace, assumed: Assumed) -> Iterator[dict[str, Any]]:
    """Evaluations, by what of each its seconds go into."""
    evaluated = settings.evaluated
    text = assumed.text_tokens if evaluated.text_tokens is None else evaluated.text_tokens
    prompts = assumed.num_prompts if evaluated.num_prompts is None else evaluated.num_prompts
    perplexity = pace.perplexity(text) if settings.trials else 0.0
    generation = pace.generation(prompts, assumed.prompt_tokens) if settings.trials else 0.0
    for one in settings.trials:
        each = {"perplexity": perplexity, "generation": generation * one.with_prompts}
        seconds = one.number * sum(each.values())
        yield {"name": one.name, "number": one.number, "unit": "evaluation", "seconds": seconds, "each": each}


def _warnings(settings: Settings, rates: Rates, memory: dict[str, float], evaluation: float | None) -> list[str]:
    found = []
    if (needed := sum(memory.values())) > rates.memory:
        found.append(
            f"attribution does not fit: {needed / 1e9:.1f} GB of {rates.memory / 1e9:.0f} GB a GPU, most of it "
            f"{max(memory, key=memory.__getitem__)}. {_remedy(settings, rates, memory)}"
        )
    if evaluation is not None and evaluation > rates.memory:
        found.append(
            f"the evaluation does not fit: {evaluation / 1e9:.1f} GB of {rates.memory / 1e9:.0f} GB a GPU. Lower "
            "`model.evaluator.init_args.max_tokens`."
        )
    return found


def _remedy(settings: Settings, rates: Rates, memory: dict[str, float]) -> str:
    """Which key to change first: the cheapest that makes room."""
    moving = memory["activations"] + memory["temporaries"]
    if sum(memory.values()) - moving < rates.memory and settings.batch_size > 1:
        return "Lower `data.max_tokens` or `data.batch_size`, or set `model.activation_checkpointing: true`."
    if not settings.is_sharded:
        smaller = " or, for neurons only, `model.granularity: neuron`" if settings.granularity == "weight" else ""
        return f"Shard the model: add `--config configs/trainer/fsdp.yaml`{smaller}."
    return "Use more GPUs: `trainer.num_nodes`, and `trainer.strategy.init_args.data_parallel_size` with it."


def amount(num_bytes: float) -> str:
    """Bytes in the unit that reads best."""
    power = 0
    while num_bytes >= 1000 and power < len(_UNITS) - 1:
        num_bytes, power = num_bytes / 1000, power + 1
    return f"{num_bytes:.0f} B" if power == 0 else f"{num_bytes:.3g} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds >= 1e-4 else "< 0.1 ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def print_plan(plan: dict[str, Any], console: Console | None = None) -> None:
    """Print what `estimate` found; warnings go to stderr."""
    console = console or Console(markup=False, emoji=False, highlight=False)
    run, model, gpu = plan["run"], plan["model"], plan["gpu"]
    console.print(
        f"{model['num_parameters']:,} parameters in {run['dtype']}; {run['granularity']} scores of "
        f"{model['num_attributed_layers']} layers: {model['num_scores']:,}"
    )
    machines = f"{run['num_nodes']} x {run['devices']} {gpu['name']}"
    console.print(f"Computed for {machines}, {run['strategy']}; nothing was measured.\n")
    _print(console, ("memory and disk", "", ""), _space(plan))
    _print(console, ("reference set", "samples", "tokens", "time", "a sample, GPU", "sent a sample"), _sets(plan))
    _print(console, ("time goes into", "", ""), _phases(plan))
    if plan["beside"]:
        parts = list(dict.fromkeys(name for item in plan["beside"] for name in item.get("each", {})))
        _print(console, ("beside attribution, at most", "times", "time", *parts), _beside(plan, parts))
        if parts:
            console.print(f"Under {' and '.join(parts)}: what one evaluation takes.")
    console.print(f"Rates of {gpu['name']}: {gpu['source']}.")
    console.print("Not in the time: loading, saving, statistics, what a first batch compiles.")
    if any(item["assumed"] for item in plan["sets"]):
        console.print("?: not in the config; --num_prompts and --prompt_tokens say what to plan with.")
    for warning in plan["warnings"]:
        print(f"sparc3: warning: {warning}", file=sys.stderr)


def _print(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _space(plan: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    most = plan["dominated_by"]["memory"]
    yield "each GPU", amount(plan["gpu_bytes_attribution"]), f"of {amount(plan['gpu']['memory_bytes'])}"
    for name, value in plan["gpu_bytes"].items():
        yield f"  {name}", amount(value), "most" if name == most else ""
    if plan["gpu_bytes_screen"] is not None:
        yield "each GPU while screening", amount(plan["gpu_bytes_screen"]), ""
    if plan["gpu_bytes_evaluation"] is not None:
        yield "each GPU while evaluating", amount(plan["gpu_bytes_evaluation"]), ""
    for name, value in plan["host_bytes"].items():
        yield f"host of the first node, {name}", amount(value), ""
    yield "disk", amount(sum(plan["disk_bytes"].values())), ""
    for name, value in plan["disk_bytes"].items():
        yield f"  {name}", amount(value), ""


def _sets(plan: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for item in plan["sets"]:
        marks = {name: "?" if name in item["assumed"] else "" for name in ("num_samples", "tokens")}
        sent = item["bytes_sent_a_sample"]
        yield (
            item["name"], f"{item['num_samples']}{marks['num_samples']}", f"{item['tokens']}{marks['tokens']}",
            duration(item["seconds"]), duration(item["seconds_a_sample_and_gpu"]), amount(sent) if sent else "",
        )  # fmt: skip
    yield "all", "", "", duration(plan["seconds"]), f"{plan['gpu_hours']:.3g} GPU-h", ""


def _phases(plan: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, value in sorted(plan["seconds_by_phase"].items(), key=lambda item: -item[1]):
        if value:
            yield name, duration(value), "most" if name == plan["dominated_by"]["time"] else ""


def _beside(plan: dict[str, Any], parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for item in plan["beside"]:
        each = item.get("each", {})
        shown = [duration(each[part]) if each.get(part) else "" for part in parts]
        yield item["name"], str(item["number"]), duration(item["seconds"]), *shown
    yield "all", "", duration(plan["seconds_beside"]), *("" for _ in parts)
