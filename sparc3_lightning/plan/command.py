"""From the options of `sparc3 plan` to the plan."""

import argparse
from dataclasses import replace
from typing import Any

from sparc3_lightning.plan.compose import compose
from sparc3_lightning.plan.estimate import Assumed, estimate
from sparc3_lightning.plan.measured import measured_rates
from sparc3_lightning.plan.model_config import model_fields
from sparc3_lightning.plan.options import RATE_OPTIONS
from sparc3_lightning.plan.rates import GPUS, Rates
from sparc3_lightning.plan.settings import settings_of
from sparc3_lightning.plan.shape import shape_of

_DEFAULT_GPU = "h100"
_RATE_FIELDS = {"tflops": "half_flops"}


def plan(options: argparse.Namespace) -> dict[str, Any]:
    """What `sparc3 plan` says, as JSON.

    Args:
        options: As `add_plan_options` declares them.

    Raises:
        ValueError: The config is none, or a run would refuse it.
        OSError: A file cannot be read, or the model's config.json is not here.
    """
    config = compose(options.parts)
    fields, where = model_fields(config.get("model") or {}, options.model_config)
    shape = shape_of(fields, where)
    settings = settings_of(config, shape.layers, shape.dtype, options.devices, options.num_nodes)
    found = estimate(
        settings, shape, _rates(options, settings.granularity), Assumed(options.num_prompts, options.prompt_tokens)
    )
    found["model"] = {"config": where, **found["model"]}
    if options.gpu is None and (config.get("trainer") or {}).get("accelerator") == "cpu":
        name = found["gpu"]["name"]
        found["warnings"].append(f"`trainer.accelerator` is cpu; memory and seconds are those of one {name}.")
    return found


def _rates(options: argparse.Namespace, granularity: str) -> Rates:
    rates = GPUS[options.gpu or _DEFAULT_GPU]
    if options.rates is not None:
        rates = measured_rates(options.rates, GPUS[options.gpu] if options.gpu else None, granularity)
    given = {name: getattr(options, name) for name in RATE_OPTIONS if getattr(options, name) is not None}
    if given:
        values = {_RATE_FIELDS.get(name, name): value * RATE_OPTIONS[name][1] for name, value in given.items()}
        rates = replace(rates, **values, source=f"{rates.source}; but {', '.join(given)} as given")
    return rates
