"""The options of `sparc3 plan`; the keys of a run's config are options too."""

import argparse
from pathlib import Path
from typing import Any

from sparc3_lightning.plan.compose import GROUPS
from sparc3_lightning.plan.estimate import Assumed
from sparc3_lightning.plan.rates import GPUS

_KEY = "--key"


def spell_keys(args: list[str]) -> list[str]:
    """Turn each `--model.dtype VALUE` and `--model.dtype=VALUE` into `--key model.dtype=VALUE`, for argparse."""
    spelled: list[str] = []
    rest = iter(args)
    for word in rest:
        key, has_value, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and key.split(".")[0] in GROUPS:
            spelled += [_KEY, f"{key}={value if has_value else next(rest, '')}"]
        else:
            spelled.append(word)
    return spelled


class _Part(argparse.Action):
    """Files and keys in the order of the command line: what comes later counts."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        key, _, value = values.partition("=") if option_string == _KEY else ("config", "", values)
        namespace.parts = [*(getattr(namespace, "parts", None) or []), (key, value)]


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """The options of `sparc3 plan`."""
    parser.usage = "sparc3 plan --config FILE [--config FILE ...] [--model.KEY VALUE ...] [options]"
    parser.add_argument("--config", metavar="FILE", action=_Part, required=True, help="YAML of the run; repeatable")
    parser.add_argument(_KEY, metavar="KEY=VALUE", action=_Part, help=argparse.SUPPRESS)
    parser.add_argument("--devices", metavar="N", type=_positive, help="GPUs a node, in the config's place")
    parser.add_argument("--num_nodes", metavar="N", type=_positive, help="nodes, in the config's place")
    parser.add_argument("--model_config", metavar="FILE", type=Path, help="config.json of a model that is not here")
    parser.add_argument("--gpu", choices=GPUS, help="kind of GPU (default: h100)")
    parser.add_argument("--rates", metavar="FILE", type=Path, help="rates that benchmarks/gpu.py has measured")
    for option, unit in RATE_OPTIONS.items():
        parser.add_argument(f"--{option}", metavar=unit[0], type=float, help=f"{unit[2]}, in place of the GPU's")
    assumed = Assumed()
    for option, meaning in (
        ("num_prompts", "samples of a set whose config names no number"),
        ("prompt_tokens", "length of samples whose config names none"),
    ):
        default = getattr(assumed, option)
        parser.add_argument(f"--{option}", metavar="N", type=_positive, default=default,
                            help=f"{meaning} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


RATE_OPTIONS: dict[str, tuple[str, float, str]] = {
    "memory": ("GB", 1e9, "memory of a GPU"),
    "tflops": ("TFLOP/S", 1e12, "arithmetic in 16-bit types that large matrix products reach"),
    "bandwidth": ("TB/S", 1e12, "memory bandwidth that is reached"),
    "node_link": ("GB/S", 1e9, "what a GPU sends to another one of its node"),
    "network_link": ("GB/S", 1e9, "what a GPU sends to another node"),
}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
