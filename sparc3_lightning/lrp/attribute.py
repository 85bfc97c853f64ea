"""Attribution in one call, from plain Python."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from sparc3_lightning.data.samples import token_hash
from sparc3_lightning.data.tokens import check_vocabulary
from sparc3_lightning.identity import base_model
from sparc3_lightning.lrp.attribution import Attribution, Granularity
from sparc3_lightning.lrp.dispatch import Kernel
from sparc3_lightning.lrp.linear import Sign
from sparc3_lightning.lrp.rules import METHOD_OF_VARIANT, Variant
from sparc3_lightning.lrp.targets import Target
from sparc3_lightning.models import context_length
from sparc3_lightning.scoring.manifest import Manifest, Options, make_manifest
from sparc3_lightning.scoring.score_set import ScoreSet


def attribution_options(attribution: Attribution, modules: str | Sequence[str]) -> Options:
    """How an attribution computes relevance, for manifests."""
    return Options(
        method=METHOD_OF_VARIANT[attribution.variant],
        variant=attribution.variant,
        target=str(attribution.target),
        sign=attribution.sign,
        granularity=attribution.granularity,
        modules=modules if isinstance(modules, str) else list(modules),
    )


def check_samples(
    samples: Sequence[Tensor],
    max_length: int,
    vocab_size: int,
    argument: str = "samples",
    names: Sequence[str] | None = None,
) -> None:
    """Refuse what cannot be attributed.

    Args:
        samples: Token ids, one 1-D tensor a sample.
        max_length: The model's context, in tokens.
        vocab_size: Rows of its embedding.
        argument: What the message calls the samples.
        names: What it calls each, beside its number.

    Raises:
        ValueError: No sample; or one that is empty, longer than the context, no 1-D tensor of integer ids, or that
            holds ids which the model does not have.
    """
    if not len(samples):
        raise ValueError(f"`{argument}` must hold at least one 1-D tensor of token ids, got none.")
    for position, sample in enumerate(samples):
        place = f"`{argument}[{position}]`" + ("" if names is None else f" ({names[position]})")
        if not isinstance(sample, Tensor) or sample.ndim != 1 or sample.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{place} must be a 1-D integer tensor of token ids, got {_describe(sample)}.")
        if not 1 <= sample.numel() <= max_length:
            raise ValueError(
                f"{place} must hold 1 to {max_length} tokens (the model's context; with `longrope` its original one, "
                f"beyond which scores depend on the batch), got {sample.numel()}. Crop or drop it."
            )
        check_vocabulary(sample.tolist(), vocab_size, place)


def _describe(sample: object) -> str:
    return f"{sample.dtype} of shape {tuple(sample.shape)}" if isinstance(sample, Tensor) else type(sample).__name__


def attribute(
    model: PreTrainedModel,
    samples: Sequence[Tensor],
    granularity: Granularity = "neuron",
    sign: Sign = "abs",
    target: str | int | Sequence[int] | Target = "last_token_argmax",
    modules: str | Sequence[str] = "neurons",
    batch_size: int = 8,
    variant: Variant = "attnlrp",
    kernel: Kernel = "auto",
    activation_checkpointing: bool = False,
) -> ScoreSet:
    """Mean relevance of a model's weights or neurons over samples.

    Args:
        model: A causal language model of a known family, on any one device.
        samples: Token ids, one 1-D tensor a sample, unpadded.
        granularity: "neuron": row sums, one number a row; "weight": one a weight.
        sign: "abs": abs(W * G_s) per sample (the document); "signed": W * G_s (the paper).
        target: "last_token_argmax", a token id ("token:ID"), or two ids to contrast ("contrast:ID:ID").
        modules: "neurons" (the family's neuron modules), "all" (every linear layer; a tied lm_head is left out and
            named in the manifest), or name patterns.
        batch_size: Samples per backward pass; scores do not depend on it.
        variant: "attnlrp", "cp_lrp", or "gradient": no rules, the baseline.
        kernel: "auto" (the fused kernel on a GPU, in half precision), "eager" or "triton".
        activation_checkpointing: Less memory for one more forward pass; scores do not depend on it.

    Returns:
        Scores from module name to float32 tensor.

    Shape: each score (O,) or (O, I).
    Units: logits per sample.
    Raises:
        ValueError: Unknown family or option; samples that are empty, longer than the context, or of another tokenizer.
        FloatingPointError: Relevance that is not finite; names layer, batch and sample.
    Source: SparC3 (arXiv 2506.13727), Eq. 1, 7, 8; AttnLRP (ICML 2024).
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    check_samples(samples, context_length(model), model.config.vocab_size)
    attribution = Attribution(
        model, granularity=granularity, sign=sign, target=target, modules=modules, variant=variant, kernel=kernel,
        activation_checkpointing=activation_checkpointing,
    )  # fmt: skip
    target_ids: list[int] = []
    with attribution:
        for start in range(0, len(samples), batch_size):
            batch = [sample.long() for sample in samples[start : start + batch_size]]
            lengths = torch.tensor([len(sample) for sample in batch])
            ids = pad_sequence(batch, batch_first=True).to(attribution.device)
            target_ids += attribution.step(ids, lengths).tolist()
        # In place: no second copy of all of them on the device.
        scores = ScoreSet({name: total.div_(len(samples)) for name, total in attribution.sums().items()})
    scores.manifest = _manifest(scores, attribution, modules, samples, target_ids)
    return scores


def _manifest(
    scores: ScoreSet,
    attribution: Attribution,
    modules: str | Sequence[str],
    samples: Sequence[Tensor],
    target_ids: Sequence[int],
) -> Manifest:
    return make_manifest(
        base_model=base_model(attribution.model),
        options=attribution_options(attribution, modules),
        left_out=attribution.left_out,
        data={
            "token_hash": token_hash(samples),
            "num_samples": len(samples),
            "num_tokens": sum(len(sample) for sample in samples),
            "target_ids": list(target_ids),
        },
        relevance_per_sample=scores.total,
        model_dtype=str(attribution.model.dtype).removeprefix("torch."),
    )
