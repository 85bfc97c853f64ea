"""The context: rules on inside, outputs untouched, everything off afterwards (method.md, traps 10, 11, 12, 24)."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning import attnlrp
from sparc3_lightning.lrp import attention as attention_room
from tests.tiny import PARTS, TINY, gradients, tiny_llama, tiny_mistral, tiny_qwen2, tiny_samples

(SAMPLE,) = tiny_samples((9,), seed=1)
IMPLEMENTATIONS = ["sdpa", "eager"]


@pytest.fixture(params=sorted(TINY))
def build(request: pytest.FixtureRequest) -> Callable[..., PreTrainedModel]:
    return TINY[request.param]


def build_with(build: Callable[..., PreTrainedModel], implementation: str) -> PreTrainedModel:
    if implementation == "sdpa" and build is TINY["gemma2"]:
        pytest.skip("its attention is eager: a soft cap")
    return build(attn_implementation=implementation)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def traces(model: PreTrainedModel) -> list[str]:
    """Whatever the rules could leave on a model."""
    left = [name for name, module in model.named_modules() if "forward" in vars(module)]
    left += [name for name, module in model.named_modules() if module._forward_pre_hooks or module._forward_hooks]
    left += [key for key in vars(model) if "sparc3" in key]
    return left + [model.config._attn_implementation for _ in [0] if "sparc3" in model.config._attn_implementation]


@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp"])
def test_rules_are_on(build: Callable[..., PreTrainedModel], variant: str) -> None:
    model = build()
    plain = gradients(model, SAMPLE)
    with attnlrp(model, variant=variant):
        ruled = gradients(model, SAMPLE)
    # Trap 10: relevance of the whole model is another thing than plain gradients, in every layer below the last norm.
    family = model.config.model_type
    above = ("lm_head.", f"{PARTS[family].norm}.")
    for name, gradient in ruled.items():
        # Without rotation the softmax does not see a key's bias: its gradient is rounding.
        if not name.startswith(above) and not (family == "opt" and name.endswith(".k_proj.bias")):
            scale = plain[name].abs().max()
            assert (gradient - plain[name]).abs().max() > 1e-3 * scale, name


def test_each_rule_is_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving out any single rule changes the gradients: none of them is dead."""
    model = tiny_llama()
    with attnlrp(model):
        full = gradients(model, SAMPLE)

    def without(target: str, replacement: object) -> dict[str, Tensor]:
        with monkeypatch.context() as patch:
            patch.setattr(target, replacement)
            with attnlrp(model):
                return gradients(model, SAMPLE)

    rooms = "sparc3_lightning.lrp."
    for target, replacement in (
        (rooms + "rules._norm_forward", lambda family, norm: norm.forward),
        (rooms + "rules._activation_forward", lambda activation: activation.forward),
        (rooms + "rules._halve_product", lambda module, args: args),
        (rooms + "attention.INPUT_RULES", {"attnlrp": lambda q, k, v: (q, k, v)}),
    ):
        assert not same(full, without(target, replacement)), target


def test_cp_lrp_reaches_neither_q_k_nor_gate(build: Callable[..., PreTrainedModel]) -> None:
    model = build()
    with attnlrp(model, variant="cp_lrp"):
        reached = gradients(model, SAMPLE)
    for name, _ in model.named_parameters():
        parts = PARTS[model.config.model_type].without_cp_lrp
        assert (name in reached) == (not any(f".{part}." in name for part in parts)), name


def left_padded(implementation: str, model: PreTrainedModel) -> dict[str, Tensor]:
    ids = torch.stack([SAMPLE, SAMPLE.flip(0), SAMPLE.roll(3)])
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    mask[2, :1] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_outputs_are_bit_identical(build: Callable[..., PreTrainedModel], implementation: str, variant: str) -> None:
    model = build_with(build, implementation)
    assert model.config._attn_implementation == implementation
    for inputs in ({"input_ids": SAMPLE[None]}, left_padded(implementation, model)):
        outside = model(**inputs, output_hidden_states=True)
        with attnlrp(model, variant=variant):
            inside = model(**inputs, output_hidden_states=True)
        assert torch.equal(inside.logits, outside.logits)
        assert all(torch.equal(a, b) for a, b in zip(inside.hidden_states, outside.hidden_states, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_left_padding_mask_and_window_matter(
    build: Callable[..., PreTrainedModel], implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 24 would be seen: without the mask function the same inputs give other logits."""
    model = build_with(build, implementation)
    inputs = left_padded(implementation, model)
    outside = model(**inputs).logits
    # A fresh implementation name, so that an earlier registration of the mask does not hide the fault.
    monkeypatch.setattr(attention_room, "_PREFIX", "sparc3_lrp_without_mask_")
    monkeypatch.setattr(attention_room.AttentionMaskInterface, "register", lambda *args: None)
    with attnlrp(model):
        assert (model(**inputs).logits - outside).abs().max() > 0.1


@torch.no_grad()
def test_generation_is_the_same_inside() -> None:
    model = tiny_mistral()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    outside = model.generate(**left_padded("sdpa", model), **options)
    with attnlrp(model):
        assert torch.equal(model.generate(**left_padded("sdpa", model), **options), outside)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_outputs_are_bit_identical_in_other_dtypes(dtype: torch.dtype) -> None:
    model = tiny_llama(dtype=dtype)
    with torch.no_grad():
        outside = model(input_ids=SAMPLE[None]).logits
        with attnlrp(model):
            assert torch.equal(model(input_ids=SAMPLE[None]).logits, outside)


@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp"])
def test_rules_are_off_afterwards(build: Callable[..., PreTrainedModel], variant: str) -> None:
    model = build()
    before = gradients(model, SAMPLE)
    with attnlrp(model, variant=variant):
        gradients(model, SAMPLE)
    assert traces(model) == []
    assert same(gradients(model, SAMPLE), before)


def test_rules_are_off_after_an_exception(build: Callable[..., PreTrainedModel]) -> None:
    model = build()
    before = gradients(model, SAMPLE)
    with pytest.raises(KeyboardInterrupt), attnlrp(model):
        raise KeyboardInterrupt
    assert traces(model) == []
    assert same(gradients(model, SAMPLE), before)


@pytest.mark.parametrize("place", ["_set_implementation", "_register"])
def test_rules_are_off_after_a_failed_start(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    before = gradients(model, SAMPLE)

    def fail(*args: object) -> None:
        raise RuntimeError("start failed")

    with monkeypatch.context() as patch:
        patch.setattr(attention_room, place, fail)
        with pytest.raises(RuntimeError, match="start failed"), attnlrp(model):
            pass
    assert traces(model) == []
    assert same(gradients(model, SAMPLE), before)


def others() -> Iterator[tuple[str, PreTrainedModel, PreTrainedModel]]:
    model = tiny_llama()
    yield "same class, own config", model, tiny_llama(seed=1)
    yield "shared config object", model, type(model)(model.config).eval()
    yield "deep copy", model, copy.deepcopy(model)
    yield "other family", model, tiny_qwen2()


@pytest.mark.parametrize("number", range(4))
def test_other_models_keep_plain_gradients(number: int) -> None:
    """Trap 11, while the rules are on for one model and afterwards."""
    _, model, other = list(others())[number]
    before, logits = gradients(other, SAMPLE), other(input_ids=SAMPLE[None]).logits
    with attnlrp(model):
        gradients(model, SAMPLE)
        assert same(gradients(other, SAMPLE), before)
        assert torch.equal(other(input_ids=SAMPLE[None]).logits, logits)
    assert same(gradients(other, SAMPLE), before)


def test_nothing_of_torch_is_replaced() -> None:
    """LXT's own patches replace torch.nn.Dropout.forward for the whole process."""
    classes = [nn.Linear, nn.Dropout, nn.SiLU, type(tiny_llama().model.norm), type(tiny_llama().model.layers[0].mlp)]
    before = [vars(cls)["forward"] for cls in classes]
    with attnlrp(tiny_llama()):
        assert [vars(cls)["forward"] for cls in classes] == before


@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_two_models_with_one_config_at_once(first_leaves_first: bool) -> None:
    first = tiny_llama()
    second = type(first)(first.config).eval()
    with attnlrp(first):
        of_first = gradients(first, SAMPLE)
    with attnlrp(second, variant="cp_lrp"):
        of_second = gradients(second, SAMPLE)
    stacks = ExitStack(), ExitStack()
    stacks[0].enter_context(attnlrp(first))
    stacks[1].enter_context(attnlrp(second, variant="cp_lrp"))
    assert same(gradients(first, SAMPLE), of_first)
    assert same(gradients(second, SAMPLE), of_second)
    stays, leaves = (1, 0) if first_leaves_first else (0, 1)
    stacks[leaves].close()
    model, expected = ((first, of_first), (second, of_second))[stays]
    assert same(gradients(model, SAMPLE), expected)
    stacks[stays].close()
    assert traces(first) == traces(second) == []
    assert first.config._attn_implementation == "sdpa"


def test_training_mode_drops_nothing_out(build: Callable[..., PreTrainedModel]) -> None:
    """Nothing is dropped out under the rules, in training mode too: of attention, or of whatever a family drops."""
    options = {"attention_dropout": 0.5} if build is not TINY["gpt2"] else {"attn_pdrop": 0.5, "resid_pdrop": 0.5}
    model = build(**options)
    with attnlrp(model):
        wanted = gradients(model, SAMPLE)
    model.train()
    with attnlrp(model):
        assert same(gradients(model, SAMPLE), wanted)
    assert all(module.training for module in model.modules())


def test_twice_on_one_model_is_refused() -> None:
    model = tiny_llama()
    with attnlrp(model):
        with pytest.raises(RuntimeError, match="already active"), attnlrp(model):
            pass
        assert traces(model) != []
    with attnlrp(model):
        pass
    assert traces(model) == []


def test_unknown_variant() -> None:
    with (
        pytest.raises(ValueError, match=r"`variant` must be one of .*attnlrp.*cp_lrp.*got 'lrp'"),
        attnlrp(tiny_llama(), variant="lrp"),
    ):
        pass


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention"])
def test_attention_that_the_rules_do_not_see_into_is_refused_by_name(implementation: str) -> None:
    model = tiny_llama()
    model.config._attn_implementation_internal = implementation
    with pytest.raises(ValueError, match="must be 'sdpa' or 'eager'"), attnlrp(model):
        pass


def test_attention_that_cannot_be_wrapped_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers only logs where a model's attention cannot be set: then the rules would be half on (trap 10)."""
    model = tiny_llama()
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", lambda self: False)
    with pytest.raises(ValueError, match="2 of 2 attention modules"), attnlrp(model):
        pass
    assert traces(model) == []


def test_changed_architecture_is_refused() -> None:
    """The count of patched modules: a norm more, a block less."""
    model = tiny_llama()
    model.model.layers[0].extra_norm = copy.deepcopy(model.model.norm)
    with pytest.raises(ValueError, match=r"must have 5 LlamaRMSNorm, got 6"), attnlrp(model):
        pass
    model = tiny_llama()
    model.model.layers = model.model.layers[:1]
    with pytest.raises(ValueError, match=r"must hold 2 decoder blocks.*got 1"), attnlrp(model):
        pass
    assert traces(model) == []


def test_cp_lrp_conserves_relevance_in_float32() -> None:
    # Trap 12. Relevance of the input embeddings against the logit explained; no biases.
    model, embedded = tiny_llama(), tiny_llama().get_input_embeddings()(SAMPLE[None]).detach().requires_grad_()
    with attnlrp(model, variant="cp_lrp"):
        logit = model(inputs_embeds=embedded, use_cache=False).logits[0, -1].max()
        logit.backward()
    assert embedded.grad is not None
    relevance = (embedded * embedded.grad).sum()
    assert relevance.item() == pytest.approx(logit.item(), rel=1e-5)


def test_product_takes_exactly_half() -> None:
    """Trap 12: AttnLRP is not conservative, but its product's factor is exactly 0.5."""
    model = tiny_llama()
    mlp, seen = model.model.layers[1].mlp, {}
    with attnlrp(model):
        mlp.down_proj.register_full_backward_hook(lambda m, grad_in, grad_out: seen.update(down=grad_in[0]))
        mlp.up_proj.register_full_backward_hook(lambda m, grad_in, grad_out: seen.update(up=grad_out[0]))
        mlp.act_fn.register_forward_hook(lambda m, args, out: seen.update(act=out.detach()))
        model(input_ids=SAMPLE[None]).logits[0, -1].max().backward()
        product_gradient = seen["down"]
    # down_proj's hook sees the gradient before it is halved
    assert torch.equal(seen["up"], seen["act"] * (product_gradient * 0.5))
