"""One backward pass a batch: exact at any batch size and padding, complete, finite, and undone afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from sparc3_lightning import attnlrp, attribute
from sparc3_lightning.lrp.attribution import Attribution
from tests.tiny import PARTS, TINY, gradients, rows_of, tiny_llama, tiny_qwen2, tiny_samples

SAMPLES = tiny_samples()


def sums(
    model: PreTrainedModel, samples: list[Tensor], batch_size: int, pad: int = 0, extra: int = 0, **options: object
) -> dict[str, Tensor]:
    with Attribution(model, modules="all", granularity="weight", **options) as attribution:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            ids = pad_sequence([*batch, torch.zeros(max(map(len, batch)) + extra)], batch_first=True, padding_value=pad)
            attribution.step(ids[:-1].long(), torch.tensor([len(sample) for sample in batch]))
        return {name: total.clone() for name, total in attribution.sums().items()}


def loop(model: PreTrainedModel, samples: list[Tensor], sign: str) -> dict[str, Tensor]:
    """W times W.grad under the rules, one sample at a time."""
    total: dict[str, Tensor] = {}
    with attnlrp(model):
        for sample in samples:
            for name, gradient in gradients(model, sample).items():
                relevance = model.get_parameter(name).detach() * gradient
                total[name] = total.get(name, 0) + (relevance.abs() if sign == "abs" else relevance)
    return total


@pytest.mark.parametrize("sign", ["abs", "signed"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.usefixtures("wide_softmax")
def test_every_batch_size_equals_the_loop_over_samples(family: str, batch_size: int, sign: str) -> None:
    # Traps 1 and 8, invariants 1 and 2. transformers' norms are float32 inside: equal inputs, so 1e-9 all the same.
    model = TINY[family](dtype=torch.float64)
    expected = loop(model, SAMPLES, sign)
    for name, total in sums(model, SAMPLES, batch_size, sign=sign).items():
        wanted = rows_of(family, name, expected[f"{name}.weight"])
        assert total.dtype == torch.float64
        assert (total - wanted).abs().max() <= 1e-9 * wanted.abs().max(), name


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.usefixtures("wide_softmax")
def test_padding_does_not_matter(family: str) -> None:
    model = TINY[family](dtype=torch.float64)
    plain = sums(model, SAMPLES, 7)
    for name, total in sums(model, SAMPLES, 7, pad=5, extra=9).items():
        assert (total - plain[name]).abs().max() <= 1e-9 * plain[name].abs().max(), name


def test_samples_of_weight_zero_count_nothing() -> None:
    """They keep ranks in step (trap 4)."""
    model = tiny_llama(dtype=torch.float64)
    expected = sums(model, SAMPLES[:2], 2)
    ids, lengths = pad_sequence(SAMPLES[:3], batch_first=True), torch.tensor([len(s) for s in SAMPLES[:3]])
    with Attribution(model, modules="all", granularity="weight") as attribution:
        attribution.step(ids, lengths, torch.tensor([1.0, 1.0, 0.0]))
        for name, total in attribution.sums().items():
            assert (total - expected[name]).abs().max() <= 1e-9 * expected[name].max(), name
        attribution.reset()
        attribution.step(ids, lengths, torch.zeros(3))
        assert not any(total.any() for total in attribution.sums().values())


@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp", "gradient"])
def test_a_real_sample_without_its_token_is_refused(variant: str) -> None:
    """Never explained as token 0. One that only keeps ranks in step needs none."""
    ids, lengths = pad_sequence(SAMPLES[:3], batch_first=True), torch.tensor([len(s) for s in SAMPLES[:3]])
    options: dict[str, Any] = {"variant": variant, "target": "next_token"}
    places, targets = torch.tensor([4, 9, -1]), torch.tensor([3, -1, -1])
    with Attribution(tiny_llama(), **options) as attribution:
        for weights, said in (
            (torch.tensor([1.0, 1.0, 0.0]), r"got none for samples \[1\] of batch 0 \(\[9\] of the reference set\)"),
            (None, r"got none for samples \[1, 2\] of batch 0"),
        ):
            with pytest.raises(ValueError, match=said):
                attribution.step(ids, lengths, weights, places, targets)
        attribution.reset()
        explained = attribution.step(ids, lengths, torch.tensor([1.0, 0.0, 0.0]), places, targets)
        assert (int(explained[0]), attribution.num_batches) == (3, 1)
    with Attribution(tiny_llama(), variant=variant) as attribution:  # type: ignore[arg-type]
        attribution.step(ids, lengths, None, places, targets)  # nobody reads them


def test_float32_batches_agree() -> None:
    model = tiny_qwen2()
    one, eight = (attribute(model, SAMPLES, modules="all", batch_size=n).scores for n in (1, 8))
    for name, score in one.items():
        assert (eight[name] - score).abs().max() <= 1e-4 * score.max()


@pytest.mark.parametrize("sign", ["abs", "signed"])
def test_neuron_scores_are_row_sums(sign: str) -> None:
    model = tiny_qwen2(dtype=torch.float64)
    weight, neuron = (attribute(model, SAMPLES, g, sign=sign, modules="all").scores for g in ("weight", "neuron"))
    assert weight.keys() == neuron.keys()
    for name, score in neuron.items():
        scale = weight[name].abs().sum(1).max()
        assert (weight[name].sum(1) - score).abs().max() <= 1e-6 * scale, name


def test_score_is_the_mean_over_samples() -> None:
    model = tiny_llama()
    alone = [attribute(model, [sample]).scores for sample in SAMPLES]
    for name, score in attribute(model, SAMPLES, batch_size=2).scores.items():
        mean = torch.stack([scores[name] for scores in alone]).double().mean(0)
        assert (score - mean).abs().max() <= 1e-5 * mean.max()


@pytest.mark.parametrize("modules", ["all", "neurons", "*.1.{column}", "lm_head", "*.0.{linears[0]}"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_choice_of_modules_does_not_change_scores(family: str, modules: str) -> None:
    """Below the first attributed layer autograd records nothing, and gradients still arrive everywhere above."""
    model, modules = TINY[family](), modules.format(**PARTS[family]._asdict())
    everything = attribute(model, SAMPLES, modules="all").scores
    for name, score in attribute(model, SAMPLES, modules=modules).scores.items():
        assert torch.equal(score, everything[name]), name


def test_cp_lrp_expects_no_relevance_of_q_k_and_gate() -> None:
    model, parts = tiny_llama(), ("q_proj", "k_proj", "gate_proj")
    for modules in ("all", "*.q_proj"):
        for name, score in attribute(model, SAMPLES, modules=modules, variant="cp_lrp").scores.items():
            assert score.any().item() != name.endswith(parts), name


def test_layer_that_took_no_part_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # Trap 14: a layer without gradient is not a layer with score zero.
    model = tiny_llama()
    monkeypatch.setattr(model.model.layers[1].mlp.down_proj, "forward", lambda x: x[..., :16].detach())
    with pytest.raises(RuntimeError, match=r"layer model\.layers\.1\.mlp\.up_proj took part in 0 of 1 backward passes"):
        attribute(model, SAMPLES)


def snapshot(model: PreTrainedModel) -> dict[str, object]:
    return {
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "forward": [name for name, module in model.named_modules() if "forward" in vars(module)],
        "hooks": [name for name, module in model.named_modules() if module._forward_pre_hooks],
        "attention": model.config._attn_implementation,
    }


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was(fails: bool) -> None:
    model = tiny_llama().train()
    model.model.layers[0].eval()
    model.model.embed_tokens.weight.requires_grad_(False)
    model(input_ids=SAMPLES[0][None], labels=SAMPLES[0][None]).loss.backward()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    before = snapshot(model)
    try:
        with Attribution(model, modules="all") as attribution:
            attribution.step(SAMPLES[0][None], torch.tensor([len(SAMPLES[0])]))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    after = snapshot(model)
    for key in before.keys() - {"grad"}:
        assert after[key] == before[key], key
    for name, p in model.named_parameters():
        assert torch.equal(p, weights[name])
        grads = before["grad"][name], after["grad"][name]  # type: ignore[index]
        assert grads == (None, None) or torch.equal(*grads), name


def test_other_models_and_later_gradients_are_plain() -> None:
    # Trap 11
    model, other = tiny_llama(), tiny_llama(seed=1)
    before = gradients(model, SAMPLES[0]), gradients(other, SAMPLES[0])
    with Attribution(model) as attribution:
        attribution.step(SAMPLES[1][None], torch.tensor([len(SAMPLES[1])]))
        inside = gradients(other, SAMPLES[0])
    for a, b in (
        (inside, before[1]),
        (gradients(other, SAMPLES[0]), before[1]),
        (gradients(model, SAMPLES[0]), before[0]),
    ):
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_entering_again_starts_anew() -> None:
    attribution = Attribution(tiny_llama())
    totals = []
    for _ in range(2):
        with attribution:
            attribution.step(SAMPLES[0][None], torch.tensor([len(SAMPLES[0])]))
            totals.append({name: total.clone() for name, total in attribution.sums().items()})
    assert all(torch.equal(totals[0][name], totals[1][name]) for name in totals[0])


def test_reset_forgets() -> None:
    with Attribution(tiny_llama()) as attribution:
        attribution.step(SAMPLES[0][None], torch.tensor([len(SAMPLES[0])]))
        first = {name: total.clone() for name, total in attribution.sums().items()}
        attribution.reset()
        assert attribution.num_batches == 0
        attribution.step(SAMPLES[0][None], torch.tensor([len(SAMPLES[0])]))
        assert all(torch.equal(total, first[name]) for name, total in attribution.sums().items())


def break_weight(name: str, row: int) -> Callable[[PreTrainedModel], None]:
    def apply(model: PreTrainedModel) -> None:
        with torch.no_grad():
            model.get_parameter(name)[row, 0] = torch.nan

    return apply


@pytest.mark.parametrize(
    ("parameter", "row", "layer"),
    [
        ("model.layers.1.mlp.up_proj.weight", 3, "model.layers.1.mlp.up_proj"),
        ("model.layers.0.self_attn.k_proj.weight", 0, "model.layers.0.self_attn.k_proj"),
        ("lm_head.weight", 5, "lm_head"),
    ],
)
def test_nan_weight_names_layer_batch_and_sample(parameter: str, row: int, layer: str) -> None:
    model = tiny_llama()
    break_weight(parameter, row)(model)
    with pytest.raises(FloatingPointError, match=rf"layer {layer}, batch 0, sample 0 of the batch"):
        attribute(model, SAMPLES, modules="all")


def test_nan_for_one_token_names_the_sample_that_holds_it() -> None:
    # Invariant 6: only samples with token 40 see the NaN.
    model = tiny_llama()
    break_weight("model.embed_tokens.weight", 40)(model)
    samples = [sample.clamp(max=39) for sample in SAMPLES]
    samples[5][4] = 40
    with pytest.raises(
        FloatingPointError, match=r"layer model\.layers\.0\.mlp\.up_proj, batch 1, sample 1 of the batch"
    ):
        attribute(model, samples, batch_size=4)


def test_nan_names_the_samples_place_in_its_set() -> None:
    model, said = tiny_llama(), r"sample 0 of the batch \(17 of its reference set\)"
    break_weight("lm_head.weight", 5)(model)
    with Attribution(model) as attribution, pytest.raises(FloatingPointError, match=said):
        attribution.step(SAMPLES[0][None], torch.tensor([len(SAMPLES[0])]), indices=torch.tensor([17]))


@pytest.mark.parametrize("modules", ["neurons", "all"])
def test_nan_logit_is_not_explained_as_another_token(modules: str) -> None:
    """A NaN row of lm_head reaches no attributed layer's output: the argmax must not step over it."""
    model = tiny_llama()
    break_weight("lm_head.weight", 5)(model)
    with pytest.raises(FloatingPointError, match="relevance is not finite"):
        attribute(model, SAMPLES, modules=modules)


def test_rules_and_sinks_are_off_after_nan() -> None:
    model = tiny_llama()
    break_weight("model.layers.1.mlp.up_proj.weight", 3)(model)
    before = snapshot(model)
    with pytest.raises(FloatingPointError):
        attribute(model, SAMPLES)
    assert snapshot(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_scores_resemble_float32(dtype: torch.dtype) -> None:
    exact = attribute(tiny_llama(), SAMPLES, target=7)
    low = attribute(tiny_llama(dtype=dtype), SAMPLES, target=7)
    for name, score in exact.scores.items():
        assert low.scores[name].dtype == torch.float32
        assert torch.corrcoef(torch.stack([score, low.scores[name]]))[0, 1] > 0.999
    assert low.manifest["model_dtype"] == str(dtype).split(".")[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_sums_do_not_stall(dtype: torch.dtype) -> None:
    # Traps 6, 7: in bfloat16 a sum of equal numbers stops after about 256 of them, in float16 after 2,048.
    model, sample, num = tiny_llama(dtype=dtype), tiny_samples((2,))[0], 400
    with Attribution(model) as attribution:
        attribution.step(sample[None], torch.tensor([2]))
        one = {name: total.clone() for name, total in attribution.sums().items()}
        for _ in range(num - 1):
            attribution.step(sample[None], torch.tensor([2]))
        for name, total in attribution.sums().items():
            assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert torch.allclose(total, num * one[name], rtol=1e-4), name


def test_autocast() -> None:
    """Lightning's bf16-mixed precision."""
    model = tiny_llama()
    exact = attribute(model, SAMPLES, modules="all", target=7)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attribute(model, SAMPLES, modules="all", target=7)
    for name, score in exact.scores.items():
        assert (mixed.scores[name] - score).abs().max() <= 0.1 * score.max(), name
        assert not torch.equal(mixed.scores[name], score)


def test_works_where_gradients_are_off() -> None:
    model = tiny_llama()
    expected = attribute(model, SAMPLES)
    with torch.no_grad():
        inside = attribute(model, SAMPLES)
    assert all(torch.equal(inside.scores[name], expected.scores[name]) for name in expected.scores)


def test_eager_attention_agrees_with_sdpa() -> None:
    scores = [attribute(tiny_llama(attn_implementation=a), SAMPLES, modules="all").scores for a in ("sdpa", "eager")]
    for name, score in scores[0].items():
        assert (scores[1][name] - score).abs().max() <= 1e-5 * score.max(), name
