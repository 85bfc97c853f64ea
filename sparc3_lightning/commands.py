"""The file-only commands, from inspect to plan: no Trainer, and torch only where tensors are needed."""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparc3_lightning.pruning.weight_recipe import AnyRecipe
    from sparc3_lightning.scoring.score_set import ScoreSet

# Where the library's errors say which config key to change: here it is an option.
_OPTION_OF = {
    "PruningCallback.init_args.": "--",
    "`model.model`": "`--model`",
    "`model.tokenizer`": "`--tokenizer`",
    ", or pass `check_base=False`": "",
}
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
SCOPES = ("global", "layer")
PENALTIES = ("raw", "abs")
NUM_PROMPTS = 20
NUM_NEURONS = 100  # no default of its option: argparse would take it and `--sparsity` together


def run_file_command(command: str, args: list[str]) -> None:
    """Run one file-only command.

    Args:
        command: "inspect", "select", "apply", "report", "compare" or "plan".
        args: Its options.

    Raises:
        SystemExit: Options that cannot be, with status 2; or 0 after `--help`.
        ValueError: What a file or an option's value caused.
        OSError: A file that is missing, or an output that exists.
    """
    add_options, run = _COMMANDS[command]
    parser = argparse.ArgumentParser(
        prog=f"sparc3 {command}",
        description=run.__doc__,
        allow_abbrev=False,
    )
    add_options(parser)
    options, words = parser.parse_known_args(args)
    is_of_run = command == "plan"  # whose other options are those of a run, in whose words its errors are
    if words and not is_of_run:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    options.words = words
    with nullcontext() if is_of_run else _in_words_of_options(), _plain_warnings():
        run(options)


@contextmanager
def _in_words_of_options() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        for key, option in _OPTION_OF.items():
            message = message.replace(key, option)
        if message == str(error):
            raise
        raise (ValueError if isinstance(error, ValueError) else OSError)(message) from error


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """A warning is one line, without the place in the code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"sparc3: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _refuse_existing(path: Path, option: str) -> None:
    """Before any work: an output is never written over something."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"`{option}`: {path} exists already. Remove it, or choose another name.")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {value}")
    return value


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        type=Path,
        help="run directory or its experiment_results.json, behaviours_overlap.csv, sweep/, compression/ or circuit/ "
        "in it, score directory, recipe, or compressed model",
    )
    parser.add_argument(
        "--top", metavar="N", type=_positive, default=10, help="how many neurons to list (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _inspect(options: argparse.Namespace) -> None:
    """Show a run (verdict, figures, sets, recipe, sweep, compression, circuits), scores or a recipe."""
    from sparc3_lightning.report.read import inspect_path

    report = inspect_path(options.path, options.top)
    if options.json:
        print(json.dumps(report, indent=2, allow_nan=False))
        return
    from sparc3_lightning.report.terminal import print_report

    print_report(report)


def _select_options(parser: argparse.ArgumentParser) -> None:
    directory: Mapping[str, Any] = {"metavar": "DIR", "type": Path}
    parser.add_argument(
        "--general",
        nargs="+",
        required=True,
        help="score directories of the general sets; their mean counts",
        **directory,
    )
    parser.add_argument("--behaviour", required=True, help="score directory of the behaviour's set", **directory)
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="the recipe to write")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--num_neurons", metavar="N", type=int, help=f"how many neurons go (default: {NUM_NEURONS})")
    number.add_argument(
        "--sparsity", metavar="S", type=float, help="which share of single weights goes, in their place"
    )
    parser.add_argument("--scope", choices=SCOPES, default="global", help="where scores compete (default: %(default)s)")
    parser.add_argument(
        "--general_weight",
        metavar="G",
        type=float,
        default=1.0,
        help="weight of the general scores, >= 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--general_penalty",
        choices=PENALTIES,
        default="raw",
        help="the weight multiplies the general score, or its absolute value (default: %(default)s)",
    )
    parser.add_argument("--scores_output", help="also write the differential scores here", **directory)


def _select(options: argparse.Namespace) -> None:
    """Take the differential of score directories and write the recipe: what serves the behaviour most."""
    from sparc3_lightning.pruning.masks import check_sparsity
    from sparc3_lightning.pruning.select import check_num_neurons, num_neurons_of
    from sparc3_lightning.scoring.combine import differential

    by_neuron, output = options.sparsity is None, _recipe_output(options)
    if options.num_neurons is None:
        options.num_neurons = NUM_NEURONS
    general, behaviour = [_load_scores(path) for path in options.general], _load_scores(options.behaviour)
    contrast = differential(general, behaviour, options.general_weight, options.general_penalty)
    if by_neuron:
        check_num_neurons(options.num_neurons, num_neurons_of(contrast))
    else:
        check_sparsity(options.sparsity, "sparsity", "`--sparsity`")
    if options.scores_output is not None:
        # First: what was seen of the scores while they were written is enough to select by.
        print(f"differential scores: {contrast.save(options.scores_output)}")
    _write_selection(contrast, options, output)


def _recipe_output(options: argparse.Namespace) -> Path:
    """The recipe's file; nothing that a selection writes is there yet."""
    from sparc3_lightning.pruning.recipe import RECIPE_FILE, WEIGHT_RECIPE_FILE
    from sparc3_lightning.pruning.weight_recipe import indices_file

    output: Path = options.output
    if output.is_dir():  # of two recipes in one directory neither would be its recipe
        for file in (RECIPE_FILE, WEIGHT_RECIPE_FILE):
            _refuse_existing(output / file, "--output")
        output = output / (RECIPE_FILE if options.sparsity is None else WEIGHT_RECIPE_FILE)
    _refuse_existing(output, "--output")
    if options.sparsity is not None:
        _refuse_existing(indices_file(output, "--output"), "--output")
    if options.scores_output is not None:
        _refuse_existing(options.scores_output, "--scores_output")
    return output


def _write_selection(contrast: "ScoreSet", options: argparse.Namespace, output: Path) -> None:
    from sparc3_lightning.pruning.select import select_neurons
    from sparc3_lightning.pruning.select_weights import select_weights

    if options.sparsity is None:
        recipe = select_neurons(contrast, options.num_neurons, options.scope)
        print(f"recipe, {recipe.num} neurons in {recipe.num_layers} layers: {recipe.save(output)}")
        return
    weights = select_weights(contrast, options.sparsity, options.scope)
    print(f"recipe, {weights.num:,} weights in {weights.num_layers} layers: {weights.save(output)}")


def _load_scores(path: Path) -> "ScoreSet":
    """A score set, read module by module; one made in plain Python has no name yet, and gets its directory's."""
    from sparc3_lightning.scoring.score_set import ScoreSet

    score_set = ScoreSet.open(path)
    score_set.manifest["data"] = {"name": path.resolve().name, **score_set.manifest.get("data", {})}
    return score_set


def _apply_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", metavar="FILE", type=Path, required=True, help="recipe, or a directory that holds one"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="the Hugging Face directory to write")
    parser.add_argument("--model", metavar="ID_OR_DIR", help="base model; without it, the one that the recipe names")
    parser.add_argument("--revision", help="revision on the hub; without it, the recipe's")
    parser.add_argument(
        "--tokenizer", metavar="ID_OR_DIR", help="tokenizer to save with it; without it, the one that the run read with"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="type of the saved weights (default: auto, the checkpoint's own; a run's pruned_model/ has the run's)",
    )
    parser.add_argument(
        "--factor",
        metavar="F",
        type=_share,
        help="dampen: what every neuron's output is multiplied by, from 0 to 1; without it, the recipe's own factors",
    )


def _apply(options: argparse.Namespace) -> None:
    """Write the recipe's base model without its neurons or weights, or with neurons dampened: a Hugging Face directory.

    Another base model is refused, and so is one that was pruned already. Shapes do not change.
    """
    from sparc3_lightning.models.identity import UNNAMED
    from sparc3_lightning.pruning.weight_recipe import load_recipe

    _refuse_existing(options.output, "--output")
    recipe = load_recipe(options.recipe)
    if options.factor is not None:
        recipe = _dampened(recipe, options.factor)
    base = recipe.base_model.get("id")
    name = options.model or base
    if name is None:
        raise ValueError(f"{options.recipe} names no base model. Set `--model`.")
    if name.startswith(f"{UNNAMED} "):
        raise ValueError(
            f"{options.recipe} was made for a model that a config has built (`model.config`): its weights lie in no "
            "directory. Set `--model` to a Hugging Face directory that holds them; or run again with "
            "`save_model: true` of the pruning callback, which writes the pruned model."
        )
    revision = options.revision or (recipe.base_model.get("revision") if name == base else None)
    _save_pruned(recipe, name, revision, _tokenizer(recipe, name, revision, options.tokenizer), options)
    done = "without" if not recipe.num_dampened else f"with {recipe.num_dampened} dampened of"
    print(f"pruned model, {done} {recipe.num} {recipe.what} in {recipe.num_layers} layers: {options.output}")


def _dampened(recipe: "AnyRecipe", factor: float) -> "AnyRecipe":
    """The recipe with one factor for all."""
    from sparc3_lightning.pruning.recipe import Recipe

    if not isinstance(recipe, Recipe):
        raise ValueError(f"`--factor` is for recipes of neurons, got {factor} for one of single weights, which go.")
    return replace(recipe, factors=[factor] * len(recipe.neurons))


def _tokenizer(recipe: "AnyRecipe", model: str, revision: str | None, wanted: str | None) -> tuple[str, str | None]:
    """Name and revision of the tokenizer: the one asked for, the run's own, or the base model's."""
    if wanted is not None:
        return wanted, None
    run = recipe.base_model.get("tokenizer") or {}
    if run.get("id", recipe.base_model.get("id")) == recipe.base_model.get("id"):
        return model, revision
    return run["id"], run.get("revision")


def _save_pruned(
    recipe: "AnyRecipe", name: str, revision: str | None, tokenizer: tuple[str, str | None], options: argparse.Namespace
) -> None:
    from sparc3_lightning.models.load import load_model, load_tokenizer, torch_dtype
    from sparc3_lightning.pruning.save import save_pruned_model

    # In the checkpoint's own type: in a narrower one the weights would no longer have the recipe's hash.
    model = load_model(name, revision)
    save_pruned_model(model, load_tokenizer(*tokenizer), recipe, options.output, dtype=torch_dtype(options.dtype))


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="directory of a finished run (logs/NAME/version_N)")
    parser.add_argument(
        "--num_prompts",
        metavar="N",
        type=_positive,
        default=NUM_PROMPTS,
        help="how many prompts are shown with their completions (default: %(default)s)",
    )


def _report(options: argparse.Namespace) -> None:
    """Make `figures/` and `report.html` of a run again, from its results files alone."""
    from sparc3_lightning.report.page import write_report

    print(f"report: {write_report(options.run, options.num_prompts)}")


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="directories of finished runs, two or more")
    parser.add_argument("--output", metavar="FILE", type=Path, help="also write the tables here, as .csv or .json")


def _compare(options: argparse.Namespace) -> None:
    """Show runs side by side: what was measured, how neurons were chosen, and what differs in their configs."""
    from rich.console import Console

    from sparc3_lightning.report.side_by_side import check_output, compare_runs, fitted, read_runs, write_comparison
    from sparc3_lightning.report.terminal import print_rows

    if options.output is not None:
        check_output(options.output)
        _refuse_existing(options.output, "--output")
    tables = compare_runs(read_runs(options.runs))
    console = Console(markup=False, emoji=False, highlight=False)
    for table in [*tables[:-1], fitted(tables[-1], console.width)]:
        print_rows(table, console)
    if options.output is not None:
        print(f"tables: {write_comparison(tables, options.output)}")


def _plan_options(parser: argparse.ArgumentParser) -> None:
    from sparc3_lightning.plan.rates import DEFAULT_GPU, GPUS, RATE_OPTIONS, Assumed

    parser.usage = "sparc3 plan --config FILE [--config FILE ...] [--model.KEY VALUE ...] [options]"
    parser.add_argument("--devices", metavar="N", type=_positive, help="GPUs a node, in the config's place")
    parser.add_argument("--num_nodes", metavar="N", type=_positive, help="nodes, in the config's place")
    parser.add_argument("--model_config", metavar="FILE", type=Path, help="config.json of a model that is not here")
    parser.add_argument("--gpu", choices=GPUS, help=f"kind of GPU (default: {DEFAULT_GPU})")
    parser.add_argument("--rates", metavar="FILE", type=Path, help="YAML of rates below, or of benchmarks/gpu.py")
    for option, (unit, _, _, meaning) in RATE_OPTIONS.items():
        parser.add_argument(f"--{option}", metavar=unit, type=float, help=f"{meaning}, in place of the GPU's")
    for option, meaning in (
        ("num_prompts", "samples of a set whose config names no number"),
        ("prompt_tokens", "length of samples whose config names none"),
        ("text_tokens", "length of a text of the perplexity that is no local file"),
    ):
        shown = f"{meaning} (default: %(default)s)"
        parser.add_argument(f"--{option}", metavar="N", type=_positive, default=getattr(Assumed(), option), help=shown)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _plan(options: argparse.Namespace) -> None:
    """Say what a run needs before anyone queues: memory, disk, bytes sent, seconds.

    Reads the YAML as `sparc3 predict` does, and the model's config.json; loads neither model nor data. A run's own
    keys can be set too, such as `--model.granularity weight`.
    """
    from sparc3_lightning.plan.command import planned, print_plan

    found = planned(options)
    print(json.dumps(found, indent=2, allow_nan=False)) if options.json else print_plan(found)


_Options = Callable[[argparse.ArgumentParser], None]
_COMMANDS: dict[str, tuple[_Options, Callable[[argparse.Namespace], None]]] = {
    "inspect": (_inspect_options, _inspect),
    "select": (_select_options, _select),
    "apply": (_apply_options, _apply),
    "report": (_report_options, _report),
    "compare": (_compare_options, _compare),
    "plan": (_plan_options, _plan),
}
