"""Value vectors against a loop over neurons and words, in every family."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.pruning.select import select_neurons
from sparc3_lightning.scoring.plain import score_baselines
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.tiny import LAYERS, NEURONS, PARTS, TINY, neuron_modules, rows_of, tiny_llama, tiny_samples

TOXIC = tiny_samples((4, 11, 2, 6), seed=1)
WORDS = [7, 31, 7, 40]
LAYER_NORM = ("gpt2", "opt", "gpt_neox")


def scored(model: PreTrainedModel, words: list[int] | None = WORDS) -> ScoreSet:
    roles: dict[str, Any] = {"behaviour": "toxic", "behaviour_targets": words}
    found = score_baselines(model, {"toxic": TOXIC}, ["value_vectors"], **roles)["value_vectors"].ranking
    assert found is not None
    return found


def cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second / (first.square().sum().sqrt() * second.square().sum().sqrt()))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", sorted(TINY))
def test_the_loop_over_neurons_and_words(family: str, tied: bool) -> None:
    model, parts = TINY[family](dtype=torch.float64, tie_word_embeddings=tied), PARTS[family]
    norm, offset = model.get_submodule(parts.norm).weight.detach(), 1.0 if family.startswith("gemma") else 0.0
    is_layer_norm = family in LAYER_NORM
    head = model.get_output_embeddings().weight.detach()
    ranking = scored(model)
    assert list(ranking.scores) == neuron_modules(family)
    for layer, name in enumerate(neuron_modules(family)):
        block = model.get_submodule(f"{parts.blocks}.{layer}")
        down = rows_of(family, parts.column, block.get_submodule(parts.column).weight.detach())
        assert ranking.scores[name].shape == (NEURONS,)
        for neuron in range(NEURONS):
            column = down[:, neuron]
            if family.startswith("gemma"):
                column = column * (1.0 + block.post_feedforward_layernorm.weight.detach())
            if is_layer_norm:
                column = column - column.mean()
            found = 0.0
            for word in WORDS:
                row = head[word] * (norm + offset)
                found += cosine(column, row - row.mean() if is_layer_norm else row) / len(WORDS)
            assert float(ranking.scores[name][neuron]) == pytest.approx(-found, abs=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(TINY))
def test_it_tells_what_a_neuron_does_to_the_word_s_logit(family: str) -> None:
    """A little of the last block's columns is added to many hidden states; the model's own norms and head do the rest.

    In the mean over directions what a norm takes away along each hidden state is one factor.
    """
    model, parts, word = TINY[family](dtype=torch.float64), PARTS[family], 31
    block = model.get_submodule(f"{parts.blocks}.{LAYERS - 1}")
    columns = rows_of(family, parts.column, block.get_submodule(parts.column).weight).T
    if family.startswith("gemma"):
        columns = block.post_feedforward_layernorm(columns)
    if family in LAYER_NORM:
        columns = columns - columns.mean(1, keepdim=True)
    hidden = torch.randn(20_000, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm, head = model.get_submodule(parts.norm), model.get_output_embeddings()

    def logit(states: Tensor) -> Tensor:
        return head(norm(states))[:, word].mean()

    effects = torch.stack([logit(hidden + 1e-3 * vector) - logit(hidden) for vector in columns])
    score = scored(model, [word]).scores[neuron_modules(family)[-1]].double()
    assert float(torch.corrcoef(torch.stack([-score, effects / columns.norm(dim=1)]))[0, 1]) > 0.99


def test_a_neuron_that_writes_nothing_promotes_nothing() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.down_proj").weight[:, 5] = 0.0
    assert float(scored(model).scores["model.layers.1.mlp.up_proj"][5]) == 0.0


@pytest.mark.filterwarnings("error")
def test_it_selects_as_a_differential_does() -> None:
    """The column of one neuron is the row of lm_head that reads the word, through the last norm."""
    model = tiny_llama()
    with torch.no_grad():
        column = model.get_submodule("model.layers.1.mlp.down_proj").weight[:, 5]
        column.copy_(0.01 * model.lm_head.weight[31] * model.model.norm.weight)
    ranking = scored(model, [31])
    recipe = select_neurons(ranking, 1)
    assert recipe.neurons == [(1, 5)]
    assert recipe.scores == pytest.approx([-1.0])
    assert recipe.options["method"] == "value_vectors"
    assert recipe.options["behaviour"] == {"name": "toxic", "num_samples": 1, "target_ids": [31]}
    with pytest.warns(UserWarning, match="more relevant to `toxic` than in general"):
        select_neurons(ranking, LAYERS * NEURONS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (None, r"'value_vectors' needs a behaviour's set whose samples a known token follows.*Set `data\.behaviours`"),
        ([], "needs a behaviour's set whose samples a known token follows"),
        ([48], r"`behaviour_targets` must hold token ids between 0 and 47, got 48 to 48"),
    ],
)
def test_what_cannot_be_scored_is_refused(words: list[int] | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        scored(tiny_llama(), words)
