"""Apply and restore, bit for bit; the base model's identity (architecture.md, invariant 4)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning import Recipe, apply_recipe
from sparc3_lightning.models.identity import base_model
from sparc3_lightning.pruning.apply import check_recipe, zero_again_
from tests.tiny import LAYERS, NEURONS, PARTS, TINY, neuron_rows, rows_of, tiny_llama, tiny_samples

NEURONS_GONE = [(1, 3), (0, 0), (1, 23), (1, 4)]
(SAMPLE,) = tiny_samples((9,))


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Signs of zeros and payloads of NaNs included."""
    as_bytes = [{n: w.contiguous().view(torch.uint8) for n, w in state.items()} for state in (first, second)]
    return all(torch.equal(as_bytes[0][name], as_bytes[1][name]) for name in first)


def recipe_of(
    model: PreTrainedModel, neurons: list[tuple[int, int]] = NEURONS_GONE, factors: list[float] | None = None
) -> Recipe:
    return Recipe(neurons, base_model=base_model(model), factors=factors or [])


def expected(model: PreTrainedModel) -> dict[str, Tensor]:
    """Rows of the layers that make neurons, their biases, and columns of the one that reads them."""
    state, family = weights(model), model.config.model_type
    for layer, index in NEURONS_GONE:
        block = f"{PARTS[family].blocks}.{layer}"
        for part in PARTS[family].rows:
            rows_of(family, part, state[f"{block}.{part}.weight"])[neuron_rows(family, index)] = 0
            if (name := f"{block}.{part}.bias") in state:
                state[name][index] = 0
        rows_of(family, PARTS[family].column, state[f"{block}.{PARTS[family].column}.weight"])[:, index] = 0
    return state


def biased_llama(**options: object) -> PreTrainedModel:
    return tiny_llama(mlp_bias=True, **options)


@pytest.mark.parametrize("build", [*TINY.values(), biased_llama])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_for_good(build: Callable[..., PreTrainedModel], dtype: torch.dtype) -> None:
    model = build(dtype=dtype)
    wanted = expected(model)
    apply_recipe(model, recipe_of(model))
    assert same_bits(weights(model), wanted)


@torch.no_grad()
@pytest.mark.parametrize("build", [biased_llama, TINY["gpt2"], TINY["opt"]])
def test_pruned_neurons_emit_nothing(build: Callable[..., PreTrainedModel]) -> None:
    """Biases included: ReLU(0 + bias) must not stay."""
    model = build()
    parts, seen = PARTS[model.config.model_type], {}
    for layer, index in NEURONS_GONE:
        model.get_submodule(f"{parts.blocks}.{layer}.{parts.rows[0]}").bias[index] += 9.0
    for layer, block in enumerate(model.get_submodule(parts.blocks)):
        hook = lambda m, args, layer=layer: seen.update({layer: args[0]})  # noqa: E731
        block.get_submodule(parts.column).register_forward_pre_hook(hook)

    def silent() -> set[tuple[int, int]]:
        model(input_ids=SAMPLE[None])
        return {(layer, i) for layer in seen for i in range(NEURONS) if not seen[layer][..., i].any()}

    before = silent()  # one that ReLU silences for this sample may be there
    assert not before & set(NEURONS_GONE)
    apply_recipe(model, recipe_of(model))
    assert silent() & set(NEURONS_GONE) == set(NEURONS_GONE)
    assert len(silent()) < LAYERS * NEURONS


@torch.no_grad()
@pytest.mark.parametrize("build", TINY.values())
def test_pruning_takes_the_neurons_contributions_exactly(build: Callable[..., PreTrainedModel]) -> None:
    """As if what the neurons emit were zero, and nothing else: the second layer's, whose input the first leaves."""
    model = build(dtype=torch.float64)
    gone = [index for layer, index in NEURONS_GONE if layer == 1]
    parts = PARTS[model.config.model_type]
    down = model.get_submodule(f"{parts.blocks}.1.{parts.column}")

    def silence(module: object, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0].index_fill(-1, torch.tensor(gone), 0.0),)

    plain = model(input_ids=SAMPLE[None]).logits
    handle = down.register_forward_pre_hook(silence)
    wanted = model(input_ids=SAMPLE[None]).logits
    handle.remove()
    with apply_recipe(model, recipe_of(model, [(1, index) for index in gone])):
        torch.testing.assert_close(model(input_ids=SAMPLE[None]).logits, wanted, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(wanted, plain, rtol=1e-6)
    assert torch.equal(model(input_ids=SAMPLE[None]).logits, plain)


@pytest.mark.parametrize(
    ("build", "dtype"),
    [
        *((biased_llama, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)),
        (TINY["gpt2"], torch.bfloat16),
        (TINY["opt"], torch.bfloat16),
    ],
)
def test_restore_bit_for_bit(build: Callable[..., PreTrainedModel], dtype: torch.dtype) -> None:
    model = build(dtype=dtype)
    parts = PARTS[model.config.model_type]
    up = model.get_submodule(f"{parts.blocks}.1.{parts.rows[0]}").weight
    with torch.no_grad():
        rows_of(model.config.model_type, parts.rows[0], up)[3, :4] = torch.tensor([-0.0, torch.inf, 1e-40, torch.nan])
    before = weights(model)
    with torch.no_grad():
        outputs = model(input_ids=SAMPLE[None]).logits
    with apply_recipe(model, recipe_of(model)):
        assert not same_bits(weights(model), before)
    assert same_bits(weights(model), before)
    with torch.no_grad():
        assert torch.equal(model(input_ids=SAMPLE[None]).logits.view(torch.uint8), outputs.view(torch.uint8))


def test_restore_after_an_exception() -> None:
    model = tiny_llama()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt), apply_recipe(model, recipe_of(model)):
        raise KeyboardInterrupt
    assert same_bits(weights(model), before)


def test_restore_without_with_and_twice() -> None:
    model = tiny_llama()
    before = weights(model)
    applied = apply_recipe(model, recipe_of(model))
    applied.restore()
    assert same_bits(weights(model), before)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] = 5.0
    changed = weights(model)
    applied.restore()
    assert same_bits(weights(model), changed)


def test_applied_twice_changes_nothing() -> None:
    model = tiny_llama()
    recipe = recipe_of(model)
    apply_recipe(model, recipe)
    once = weights(model)
    with apply_recipe(model, recipe):  # passes, though the weights are no longer the base model's
        assert same_bits(weights(model), once)
    assert same_bits(weights(model), once)
    apply_recipe(model, recipe)
    assert same_bits(weights(model), once)


def test_nested_in_itself() -> None:
    model = tiny_llama()
    before, recipe = weights(model), recipe_of(model)
    with apply_recipe(model, recipe):
        with apply_recipe(model, recipe):
            pass
        assert same_bits(weights(model), expected(model))
    assert same_bits(weights(model), before)


def test_another_base_model_is_refused() -> None:
    recipe, other = recipe_of(tiny_llama()), tiny_llama(seed=1)
    before = weights(other)
    with pytest.raises(ValueError, match=r"belongs to unnamed llama \(weight hash .*got .* weight hash") as error:
        apply_recipe(other, recipe)
    assert str(error.value).endswith("Load the base model (`model.model`), or pass `check_base=False`.")
    with pytest.raises(ValueError, match=r"Load the base model \(`model\.model`\)\.$"):
        check_recipe(other, recipe)
    assert same_bits(weights(other), before)
    apply_recipe(other, recipe, check_base=False)
    assert not same_bits(weights(other), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_base_model_in_another_dtype_is_accepted(dtype: torch.dtype) -> None:
    apply_recipe(tiny_llama(dtype=dtype), recipe_of(tiny_llama()))
    apply_recipe(tiny_llama(), recipe_of(tiny_llama(dtype=dtype)))


def test_recipe_made_by_hand_fits_any_model() -> None:
    apply_recipe(tiny_llama(), Recipe(NEURONS_GONE))


@pytest.mark.parametrize("neuron", [(LAYERS, 0), (0, NEURONS), (-1, 0), (0, -1)])
def test_neurons_that_the_model_lacks(neuron: tuple[int, int]) -> None:
    model = tiny_llama()
    before = weights(model)
    with pytest.raises(ValueError, match=rf"neurons of {LAYERS} layers x {NEURONS}, got layer {neuron[0]}, index"):
        apply_recipe(model, recipe_of(model, [(0, 1), neuron]))
    assert same_bits(weights(model), before)


def test_empty_recipe() -> None:
    with pytest.raises(ValueError, match="at least one neuron, got none"):
        apply_recipe(tiny_llama(), Recipe([]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_zeroing_again_after_an_optimizer_step(family: str) -> None:
    model = TINY[family]()
    up = model.get_submodule(f"{PARTS[family].blocks}.1.{PARTS[family].rows[0]}")
    recipe = recipe_of(model)
    apply_recipe(model, recipe)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(input_ids=SAMPLE[None], labels=SAMPLE[None]).loss.backward()
    with torch.no_grad():
        rows_of(family, PARTS[family].rows[0], up.weight.grad)[3] += 1.0
    optimizer.step()
    assert rows_of(family, PARTS[family].rows[0], up.weight)[3].any()
    others = expected(model)
    zero_again_(model, recipe)
    assert same_bits(weights(model), others)
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("factor", [0.1, 0.5, 0.9])
def test_a_factor_scales_what_neurons_emit(factor: float) -> None:
    """As if their activations were multiplied, which a hook does here; restored bit for bit."""
    model = tiny_llama(dtype=torch.float64)
    before, plain = weights(model), model(input_ids=SAMPLE[None]).logits

    def dampen(layer: int) -> Callable[..., tuple[Tensor]]:
        indices = [index for number, index in NEURONS_GONE if number == layer]

        def hook(module: object, args: tuple[Tensor]) -> tuple[Tensor]:
            activation = args[0].clone()
            activation[..., indices] *= factor
            return (activation,)

        return hook

    handles = [
        model.get_submodule(f"model.layers.{layer}.mlp.down_proj").register_forward_pre_hook(dampen(layer))
        for layer in range(LAYERS)
    ]
    wanted = model(input_ids=SAMPLE[None]).logits
    for handle in handles:
        handle.remove()
    with apply_recipe(model, recipe_of(model), factor=factor):
        torch.testing.assert_close(model(input_ids=SAMPLE[None]).logits, wanted, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(wanted, plain, rtol=1e-6)
    assert same_bits(weights(model), before)


OWN = [0.25, 0.0, 1.0, 0.7]


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_neuron_has_its_own_factor(family: str, dtype: torch.dtype) -> None:
    """Its column alone is multiplied, rounded once; one whose factor is 0 goes whole; restored bit for bit."""
    model, parts = TINY[family](dtype=dtype), PARTS[family]
    before = weights(model)
    wanted = {name: weight.clone() for name, weight in before.items()}
    for (layer, index), factor in zip(NEURONS_GONE, OWN, strict=True):
        block = f"{parts.blocks}.{layer}"
        column = rows_of(family, parts.column, wanted[f"{block}.{parts.column}.weight"])[:, index]
        column.copy_((column.float() * factor).to(dtype) if factor else torch.zeros_like(column))
        for row in parts.rows if not factor else ():
            rows_of(family, row, wanted[f"{block}.{row}.weight"])[neuron_rows(family, index)] = 0
            if (name := f"{block}.{row}.bias") in wanted:
                wanted[name][index] = 0
    with apply_recipe(model, recipe_of(model, factors=OWN)):
        assert same_bits(weights(model), wanted)
    assert same_bits(weights(model), before)


@torch.no_grad()
def test_own_factors_scale_what_neurons_emit() -> None:
    model = tiny_llama(dtype=torch.float64)

    def dampen(layer: int) -> Callable[..., tuple[Tensor]]:
        def hook(module: object, args: tuple[Tensor]) -> tuple[Tensor]:
            activation = args[0].clone()
            for (number, index), factor in zip(NEURONS_GONE, OWN, strict=True):
                activation[..., index] *= factor if number == layer else 1.0
            return (activation,)

        return hook

    downs = [model.get_submodule(f"model.layers.{layer}.mlp.down_proj") for layer in range(LAYERS)]
    handles = [down.register_forward_pre_hook(dampen(layer)) for layer, down in enumerate(downs)]
    wanted = model(input_ids=SAMPLE[None]).logits
    for handle in handles:
        handle.remove()
    with apply_recipe(model, recipe_of(model, factors=OWN)):
        torch.testing.assert_close(model(input_ids=SAMPLE[None]).logits, wanted, rtol=1e-12, atol=1e-12)


def test_a_dampened_model_is_not_dampened_again() -> None:
    model = tiny_llama()
    recipe = recipe_of(model, factors=OWN)
    apply_recipe(model, recipe)
    once = weights(model)
    with pytest.raises(ValueError, match=r"`recipe` belongs to .*got a model with weight hash"):
        apply_recipe(model, recipe)
    assert same_bits(weights(model), once)


def test_a_dampened_neuron_is_not_held_at_zero() -> None:
    model = tiny_llama()
    before = weights(model)
    with pytest.raises(
        ValueError, match=r"must remove every neuron to train without them, got 3 of 4 .*`model\.recipe`"
    ):
        zero_again_(model, recipe_of(model, factors=OWN))
    assert same_bits(weights(model), before)


@pytest.mark.parametrize("factor", [-0.1, 1.0])
def test_a_factor_outside_its_range_is_refused(factor: float) -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match=f"`factor` must be at least 0 and below 1, got {factor}"):
        apply_recipe(model, recipe_of(model), factor=factor)


def test_a_path_is_no_recipe() -> None:
    with pytest.raises(ValueError, match=r"`recipe` must be a Recipe, got 'pruned.json'.*Recipe\.load"):
        apply_recipe(tiny_llama(), "pruned.json")  # type: ignore[arg-type]
