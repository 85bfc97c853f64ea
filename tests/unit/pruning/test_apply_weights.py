"""Single weights zeroed and put back, bit for bit; the base model's identity, as of neurons."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning import WeightRecipe, apply_recipe
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.models.identity import base_model
from sparc3_lightning.models.load import load_model
from sparc3_lightning.pruning.apply import zero_again_
from sparc3_lightning.pruning.card import model_card
from sparc3_lightning.pruning.save import save_pruned_model
from tests.tiny import TINY, tiny_llama, tiny_samples
from tests.tiny_files import same_weights, tiny_tokenizer

(SAMPLE,) = tiny_samples((9,))


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(first[name].contiguous().view(torch.uint8), second[name].contiguous().view(torch.uint8))
        for name in first
    )


def random_recipe(model: PreTrainedModel, share: float = 0.05, seed: int = 0) -> WeightRecipe:
    """Weights of every linear layer, lm_head's too, but of the first none."""
    random, layers = np.random.default_rng(seed), get_family(model.config.model_type).linear_modules(model)
    shapes = {name: (weight_of(layer).shape[0], weight_of(layer).shape[1]) for name, layer in layers.items()}
    gone = {
        name: np.sort(random.choice(rows * columns, round(share * rows * columns), replace=False))
        for name, (rows, columns) in list(shapes.items())[1:]
    }
    return WeightRecipe(gone, shapes, base_model=base_model(model, "someone/tiny"), options={"scope": "global"})


def expected(model: PreTrainedModel, recipe: WeightRecipe) -> dict[str, Tensor]:
    """Each weight by its row and column, one after the other."""
    state = weights(model)
    for name, indices in recipe.weights.items():
        for index in indices.tolist():
            row, column = divmod(index, recipe.shapes[name][1])
            is_stored_turned = model.config.model_type == "gpt2" and name != "lm_head"
            state[f"{name}.weight"][(column, row) if is_stored_turned else (row, column)] = 0
    return state


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_for_good_and_for_a_while(family: str, dtype: torch.dtype) -> None:
    model = TINY[family](dtype=dtype)
    recipe, before = random_recipe(model), weights(model)
    wanted = expected(model, recipe)
    with apply_recipe(model, recipe):
        assert same_bits(weights(model), wanted)
    assert same_bits(weights(model), before)
    apply_recipe(model, recipe)
    assert same_bits(weights(model), wanted)
    assert not same_bits(before, wanted)


def test_restored_bit_for_bit_whatever_they_were() -> None:
    model = tiny_llama()
    up = model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        up[3, :4] = torch.tensor([-0.0, torch.inf, 1e-40, torch.nan])
    before = weights(model)
    recipe = WeightRecipe({"model.layers.1.mlp.up_proj": np.arange(48, 53)}, {"model.layers.1.mlp.up_proj": (24, 16)})
    applied = apply_recipe(model, recipe)
    assert not up[3, :5].any()
    assert up[3, 5:].all()
    with pytest.raises(KeyboardInterrupt), applied:
        raise KeyboardInterrupt
    assert same_bits(weights(model), before)


def test_only_the_elements_are_kept_not_their_layers() -> None:
    model = tiny_llama()
    recipe = random_recipe(model, share=0.02)
    applied = apply_recipe(model, recipe)
    assert sum(values.numel() for _, values in applied._saved) == recipe.num
    applied.restore()


def test_applied_twice_changes_nothing() -> None:
    model = tiny_llama()
    recipe = random_recipe(model)
    apply_recipe(model, recipe)
    once = weights(model)
    with apply_recipe(model, recipe):  # passes, though the weights are no longer the base model's
        assert same_bits(weights(model), once)
    assert same_bits(weights(model), once)


def test_another_base_model_is_refused_and_stays_as_it_was() -> None:
    recipe, other = random_recipe(tiny_llama()), tiny_llama(seed=1)
    before = weights(other)
    with pytest.raises(ValueError, match="`recipe` belongs to someone/tiny"):
        apply_recipe(other, recipe)
    assert same_bits(weights(other), before)
    with apply_recipe(other, recipe, check_base=False):
        assert not same_bits(weights(other), before)
    model = tiny_llama()
    apply_recipe(model, recipe)
    with pytest.raises(ValueError, match=r"It lacks these weights already"):
        save_pruned_model(model, tiny_tokenizer(), recipe, "never")


def test_what_the_model_does_not_have_is_refused() -> None:
    model = tiny_llama()
    unknown = WeightRecipe({"model.layers.9.mlp.up_proj": np.array([0])}, {"model.layers.9.mlp.up_proj": (24, 16)})
    with pytest.raises(ValueError, match=r"`recipe` must name linear layers of the model, got 'model\.layers\.9"):
        apply_recipe(model, unknown)
    wider = WeightRecipe({"lm_head": np.array([0])}, {"lm_head": (48, 17)})
    with pytest.raises(ValueError, match=r"model's lm_head, which is \(48, 16\), got those of \(48, 17\): it was made"):
        apply_recipe(model, wider)
    with pytest.raises(ValueError, match="at least one weight, got none"):
        apply_recipe(model, WeightRecipe({}, {"lm_head": (48, 16)}))
    head = WeightRecipe({"lm_head": np.array([0])}, {"lm_head": (48, 16)})
    with apply_recipe(model, head):
        assert model.lm_head.weight[0, 0] == 0
    with pytest.raises(ValueError, match="must not name weights of lm_head: here it is the input embedding"):
        apply_recipe(tiny_llama(tie_word_embeddings=True), head)
    with pytest.raises(ValueError, match=r"`factor` must be None or 0 for a recipe of single weights.*got 0\.5"):
        apply_recipe(model, random_recipe(model), factor=0.5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_zeroing_again_after_an_optimizer_step(family: str) -> None:
    model = TINY[family]()
    recipe = random_recipe(model)
    apply_recipe(model, recipe)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=SAMPLE[None], labels=SAMPLE[None]).loss.backward()
    optimizer.step()
    wanted = expected(model, recipe)
    assert not same_bits(weights(model), wanted), "the step has moved them"
    zero_again_(model, recipe)
    assert same_bits(weights(model), wanted)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_a_saved_model_reloads_without_them_and_says_so(family: str, tmp_path: Path) -> None:
    model = TINY[family]()
    recipe = random_recipe(model)
    save_pruned_model(model, tiny_tokenizer(), recipe, tmp_path / "pruned")
    assert WeightRecipe.load(tmp_path / "pruned") == recipe
    reloaded = load_model(str(tmp_path / "pruned"))
    assert not same_weights(reloaded, model)
    with apply_recipe(model, recipe):
        assert same_weights(reloaded, model)
    apply_recipe(reloaded, recipe)  # it lacks them already
    card = (tmp_path / "pruned" / "README.md").read_text()
    assert f"with {recipe.num} single weights of\n{len(recipe.weights)} linear layers set to zero" in card
    assert "sparc3 apply --recipe pruned_weights.json --model someone/tiny" in card
    assert "neuron" not in card


def test_a_card_without_a_hash_promises_less() -> None:
    recipe = WeightRecipe({"lm_head": np.arange(1234)}, {"lm_head": (48, 48)}, base_model={"id": "someone/tiny"})
    card = model_card(recipe, "float32").content
    assert "# tiny without 1,234 weights" in card
    assert "was not checked" in card
