"""The fingerprint of an attribution: what must be the same for two parts of it to be added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparc3_lightning.identity import tokenizer_hash
from sparc3_lightning.lrp.dispatch import uses_triton
from sparc3_lightning.version import package_versions

if TYPE_CHECKING:
    from sparc3_lightning.module import SparC3Module

PACKAGES = ("sparc3-lightning", "torch", "transformers", "lxt")


def fingerprint(module: SparC3Module) -> dict[str, Any]:
    """Model, samples, options, batches, ranks and versions, as JSON.

    Args:
        module: The module of a predict run, its rules on.
    """
    assert module.attribution is not None
    data, trainer, versions = module.data, module.trainer, package_versions()
    fused = uses_triton(module.attribution_options["kernel"], module.device, module.weights_dtype)
    return {
        "weights": module.run.base_model["weight_hash"],
        "tokenizer": tokenizer_hash(module.tokenizer),
        "samples": {name: samples.token_hash for name, samples in data.reference_samples.items()},
        "options": dict(module.attribution.method.options),
        "dtype": str(module.weights_dtype).removeprefix("torch."),
        "attn_implementation": module.attn_implementation,
        "kernel": "triton" if fused else "eager",
        "data": {"batch_size": data.batch_size, "max_tokens": data.max_tokens, "bucket": data.bucket},
        "trainer": {
            "world_size": trainer.world_size,
            "strategy": type(trainer.strategy).__name__,
            "precision": str(trainer.precision),
            "device": module.device.type,
        },
        "versions": {package: versions.get(package) for package in PACKAGES},
    }
