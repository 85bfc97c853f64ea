"""Scores in one call, from plain Python, on a model that is already there."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import Batch, BatchDataset, plan_batches
from sparc3_lightning.data.tokens import check_vocabulary
from sparc3_lightning.distributed.ranks import alone
from sparc3_lightning.lrp.attribution import Granularity
from sparc3_lightning.lrp.dispatch import Kernel
from sparc3_lightning.lrp.linear import Sign
from sparc3_lightning.lrp.rules import Variant
from sparc3_lightning.lrp.targets import NEXT_TOKEN, Explain, Target
from sparc3_lightning.models.load import context_length
from sparc3_lightning.scoring.combine import MethodScores
from sparc3_lightning.scoring.loop import Loop, set_data
from sparc3_lightning.scoring.method import Scoring
from sparc3_lightning.scoring.registry import expand_methods, gradient_method, make_methods
from sparc3_lightning.scoring.score_set import ScoreSet


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


def check_targets(
    target: object,
    targets: Sequence[int] | None,
    against: Sequence[int] | None,
    num_samples: int,
    vocab_size: int,
    place: str = "",
) -> None:
    """Refuse targets that do not fit their samples.

    Args:
        target: What is explained.
        targets: Token that follows each sample.
        against: Token that each of these is contrasted with, -1 for none.
        num_samples: How many samples there are.
        vocab_size: Rows of the model's embedding.
        place: What follows the arguments' names in the message: which set's they are.

    Raises:
        ValueError: `next_token` without targets, or targets without it; `against` without targets; not one a sample;
            ids the model does not have.
    """
    is_next = target == NEXT_TOKEN or (isinstance(target, Target) and target.next_token)
    for argument, ids, needed in (("targets", targets, is_next), ("against", against, is_next and against is not None)):
        if needed != (ids is not None):
            raise ValueError(
                f'`{argument}{place}` must be given with `target="next_token"` and with no other, got target '
                f"{target!r} and {'none' if ids is None else len(ids)} {argument}."
            )
    for argument, ids, lowest in (("targets", targets, 0), ("against", against, -1)):
        if ids is None:
            continue
        if len(ids) != num_samples or not all(lowest <= int(token) < vocab_size for token in ids):
            raise ValueError(
                f"`{argument}{place}` must hold a token id between {lowest} and {vocab_size - 1} for each of the "
                f"{num_samples} samples, got {len(ids)}: {list(ids)[:8]}."
            )


def _describe(sample: object) -> str:
    return f"{sample.dtype} of shape {tuple(sample.shape)}" if isinstance(sample, Tensor) else type(sample).__name__


def attribute(
    model: PreTrainedModel,
    samples: Sequence[Tensor],
    granularity: Granularity = "neuron",
    sign: Sign = "abs",
    target: str | int | Sequence[int] | Target = "last_token_argmax",
    explain: Explain | None = None,
    targets: Sequence[int] | None = None,
    against: Sequence[int] | None = None,
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
        target: "last_token_argmax", a token id ("token:ID"), two ids to contrast ("contrast:ID:ID"), or "next_token":
            each sample's own, of `targets`.
        explain: "logit" of the target, or "logprob": the logit minus logsumexp.
        targets: Token that follows each sample, for `target="next_token"`.
        against: Token that each of these is contrasted with, -1 for none.
        modules: "neurons" (the family's neuron modules), "all" (every linear layer; a tied lm_head is left out and
            named in the manifest), or name patterns.
        batch_size: Samples per backward pass; scores do not depend on it.
        variant: "attnlrp", "cp_lrp", or "gradient": no rules, the baseline.
        kernel: "auto" (the fused kernel on a GPU, in half precision), "eager" or "triton".
        activation_checkpointing: Less memory for one more forward pass; scores do not depend on it.

    Returns:
        Scores from module name to float32 tensor.

    Shape: each score (O,) or (O, I).
    Units: logits per sample; nats where `explain` is "logprob".
    Raises:
        ValueError: Unknown family or option; samples that are empty, longer than the context, or of another tokenizer.
        FloatingPointError: Relevance that is not finite; names layer, batch and sample.
    Source: SparC3 (arXiv 2506.13727), Eq. 1, 7, 8; AttnLRP (ICML 2024).
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    check_samples(samples, context_length(model), model.config.vocab_size)
    check_targets(target, targets, against, len(samples), model.config.vocab_size)
    method = gradient_method(variant)
    scoring = Scoring(
        model=model, granularity=granularity, target=target, explain=explain, modules=modules, kernel=kernel,
        activation_checkpointing=activation_checkpointing,
    )  # fmt: skip
    loop = Loop({method.name: method(scoring, sign)})
    with alone():  # whoever else runs beside it
        _score(loop, scoring, "", samples, batch_size, bucket=False, targets=targets, against=against)
    return loop.finish()[method.name].sets[""]


def score_baselines(
    model: PreTrainedModel,
    reference_sets: Mapping[str, Sequence[Tensor]],
    methods: Sequence[str],
    signs: Sequence[str] = ("abs",),
    batch_size: int = 8,
    targets: Mapping[str, Sequence[int]] | None = None,
    against: Mapping[str, Sequence[int]] | None = None,
    **options: Any,
) -> dict[str, MethodScores]:
    """Scores of several reference sets by several methods.

    Args:
        model: A causal language model of a known family.
        reference_sets: Token ids by the set's name, one 1-D tensor a sample, unpadded.
        methods: Names in `scoring.registry.METHODS`.
        signs: Signs of the gradient-based methods.
        batch_size: Samples in one pass; scores do not depend on it.
        targets: By the set's name, the token that follows each of its samples: what gradient-based methods explain by
            `target="next_token"`, which needs those of every set.
        against: By the set's name, the token that each of these is contrasted with, -1 for none; a set that is not
            named has none.
        **options: See `Scoring`: `granularity`, `modules`, `target`, `explain`, `general`, `behaviour`,
            `behaviour_targets`, `seed`, `sparsity`.

    Returns:
        What each method found, by its key: the name, and `_signed` where its scores are.

    Raises:
        ValueError: An unknown method or option; samples that are empty or longer than the context; targets that do not
            fit their samples, or of a set that is not there.
    """
    chosen = expand_methods(methods, signs)
    scoring = Scoring(model=model, **options)
    targets, against = targets or {}, against or {}
    for argument, named in (("targets", targets), ("against", against)):
        if unknown := sorted(set(named) - set(reference_sets)):
            raise ValueError(f"`{argument}` must name sets of {list(reference_sets)}, got {unknown}.")
    vocab_size = model.config.vocab_size
    for name, samples in reference_sets.items():
        check_samples(samples, context_length(model), vocab_size, f"reference_sets[{name!r}]")
        own = targets.get(name), against.get(name)
        check_targets(scoring.target, *own, len(samples), vocab_size, f"[{name!r}]")
    loop = Loop(make_methods(chosen, scoring))
    for name, samples in reference_sets.items():
        _score(loop, scoring, name, samples, batch_size, True, targets.get(name), against.get(name))
    return loop.finish()


def _score(
    loop: Loop,
    scoring: Scoring,
    name: str,
    samples: Sequence[Tensor],
    batch_size: int,
    bucket: bool,
    targets: Sequence[int] | None = None,
    against: Sequence[int] | None = None,
) -> None:
    plan = plan_batches([len(sample) for sample in samples], batch_size, bucket=bucket)
    ids = [sample.long() for sample in samples]
    dataset = BatchDataset(ids, plan, targets, against)
    loop.score(set_data(samples, name, targets, against), partial(_batches, dataset, scoring.device))


def _batches(dataset: BatchDataset, device: torch.device, description: str) -> Iterator[Batch]:
    for index in range(len(dataset)):
        batch = dataset[index]
        batch["input_ids"] = batch["input_ids"].to(device)
        yield batch
