"""Baselines on a tiny model, against each sample alone and against what the formulas say."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.pruning.select import neuron_scores, select_neurons
from sparc3_lightning.scoring.combine import differential
from sparc3_lightning.scoring.plain import attribute, score_baselines
from sparc3_lightning.scoring.registry import METHODS
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.tiny import LAYERS, NEURONS, PARTS, TINY, gradients, neuron_modules, rows_of, tiny_llama, tiny_samples

GENERAL, TOXIC = tiny_samples(seed=0), tiny_samples((4, 11, 2), seed=1)
SETS = {"general": GENERAL, "toxic": TOXIC}
UP = [f"model.layers.{layer}.mlp.up_proj" for layer in range(LAYERS)]
ROLES: dict[str, Any] = {"general": ["general"], "behaviour": "toxic", "behaviour_targets": [5, 9, 9]}


def inputs_alone(model: PreTrainedModel, sample: Tensor, modules: list[str]) -> dict[str, Tensor]:
    """Each layer's input, (T, I), of one sample without padding."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        # Of one sample alone: (1, T, I), or (T, I) where a block puts all tokens in one row.
        return lambda module, args: found.__setitem__(name, args[0].detach().double().flatten(0, -2))

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in modules]
    with torch.no_grad():
        model(input_ids=sample[None])
    for handle in handles:
        handle.remove()
    return found


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-6) -> None:
    """Within float32, in which a ScoreSet is kept."""
    assert float((found.double() - wanted.double()).abs().max()) <= tolerance * float(wanted.abs().max())


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_wanda_sees_every_real_token_and_no_other(family: str, batch_size: int) -> None:
    model = TINY[family](dtype=torch.float64)
    parts = PARTS[family]
    names = [
        *neuron_modules(family),
        *(f"{parts.blocks}.1.{name}" for name in (parts.linears[0], parts.column)),
        "lm_head",
    ]
    found = score_baselines(
        model, SETS, ["wanda", "wanda_mean"], batch_size=batch_size, granularity="weight", modules=names
    )
    for set_name, samples in SETS.items():
        inputs = [inputs_alone(model, sample, names) for sample in samples]
        for name in names:
            every = torch.cat([part[name] for part in inputs])
            weight = rows_of(family, name, model.get_submodule(name).weight.detach())
            wanted = weight.abs() * every.square().sum(0).sqrt()
            close(found["wanda"].sets[set_name].scores[name], wanted)
            close(found["wanda_mean"].sets[set_name].scores[name], wanted / len(samples) ** 0.5)


def test_a_neuron_s_wanda_score_is_its_row_sum() -> None:
    model = tiny_llama()
    rows, weights = (
        score_baselines(model, SETS, ["wanda", "magnitude"], granularity=granularity)
        for granularity in ("neuron", "weight")
    )
    for name in UP:
        close(rows["wanda"].sets["toxic"].scores[name], weights["wanda"].sets["toxic"].scores[name].double().sum(1))
        ranking, whole = rows["magnitude"].ranking, weights["magnitude"].ranking
        assert ranking is not None
        assert whole is not None
        close(ranking.scores[name], whole.scores[name].double().sum(1))


@pytest.mark.parametrize("times", [2, 9])
def test_wanda_grows_by_the_square_root_of_n(times: int) -> None:
    """The document's check. The published running mean does not grow."""
    model = tiny_llama(dtype=torch.float64)
    once = score_baselines(model, {"general": GENERAL}, ["wanda", "wanda_mean"], batch_size=7)
    often = score_baselines(model, {"general": GENERAL * times}, ["wanda", "wanda_mean"], batch_size=7)
    for name in UP:
        before, after = (found["wanda"].sets["general"].scores[name].double() for found in (once, often))
        torch.testing.assert_close(after / before, torch.full_like(before, times**0.5), rtol=2e-7, atol=0)
        torch.testing.assert_close(
            often["wanda_mean"].sets["general"].scores[name],
            once["wanda_mean"].sets["general"].scores[name], rtol=2e-7, atol=0,
        )  # fmt: skip


@pytest.mark.parametrize(("family", "batch_size"), [("llama", 1), ("llama", 4), ("gpt2", 4), ("opt", 4), ("phi3", 4)])
def test_activation_and_auroc_of_neurons(family: str, batch_size: int) -> None:
    model = TINY[family](dtype=torch.float64)
    found = score_baselines(model, SETS, ["activation", "auroc"], batch_size=batch_size, modules="all", **ROLES)
    ranking = found["auroc"].ranking
    assert ranking is not None
    for layer, name in enumerate(neuron_modules(family)):
        down = f"{PARTS[family].blocks}.{layer}.{PARTS[family].column}"
        each = {
            set_name: [inputs_alone(model, sample, [down])[down] for sample in samples]
            for set_name, samples in SETS.items()
        }
        for set_name, activations in each.items():
            close(found["activation"].sets[set_name].scores[name], torch.cat(activations).abs().mean(0))
        highest = {set_name: torch.stack([a.amax(0) for a in parts]) for set_name, parts in each.items()}
        for neuron in range(NEURONS):
            wins = [
                float(x > y) + 0.5 * float(x == y)
                for x in highest["toxic"][:, neuron].tolist()
                for y in highest["general"][:, neuron].tolist()
            ]
            assert float(ranking.scores[name][neuron]) == pytest.approx(0.5 - sum(wins) / len(wins), abs=1e-7)


@pytest.mark.parametrize("sign", ["abs", "signed"])
def test_gradient_is_plain_autograd_s_sample_by_sample(sign: str) -> None:
    model = tiny_llama(dtype=torch.float64)
    key = "gradient" if sign == "abs" else "gradient_signed"
    found = score_baselines(model, {"toxic": TOXIC}, ["gradient"], [sign], granularity="weight", modules="all")
    products = [
        {name: model.get_parameter(name).detach() * gradient for name, gradient in gradients(model, sample).items()}
        for sample in TOXIC
    ]
    for name, score in found[key].sets["toxic"].scores.items():
        each = [product[f"{name}.weight"] for product in products]
        close(score, torch.stack([part.abs() if sign == "abs" else part for part in each]).mean(0))
    plain = found[key].sets["toxic"].scores
    lrp = attribute(model, TOXIC, granularity="weight", sign=sign, modules="all").scores  # type: ignore[arg-type]
    assert not torch.allclose(plain[UP[0]], lrp[UP[0]], rtol=1e-2)


def test_gradient_based_methods_are_attributions() -> None:
    model = tiny_llama()
    found = score_baselines(model, SETS, ["lrp", "cp_lrp"], ["abs", "signed"])
    assert list(found) == ["lrp", "lrp_signed", "cp_lrp", "cp_lrp_signed"]
    wanted = attribute(model, TOXIC, variant="cp_lrp", sign="signed")
    ours = found["cp_lrp_signed"].sets["toxic"]
    assert ours.manifest["options"] == wanted.manifest["options"]
    assert ours.manifest["data"]["target_ids"] == wanted.manifest["data"]["target_ids"]
    for name in UP:
        torch.testing.assert_close(ours.scores[name], wanted.scores[name])


TARGETS = {"general": [3, 5, 3, 0, 47, 11, 2], "toxic": [7, 0, 9]}
AGAINST = {"toxic": [1, -1, 7]}


@pytest.mark.parametrize("method", ["lrp", "cp_lrp", "gradient"])
def test_each_set_has_its_own_targets(method: str) -> None:
    model, variant = tiny_llama(), {"lrp": "attnlrp"}.get(method, method)
    words: dict[str, Any] = {"target": "next_token", "explain": "logprob"}
    found = score_baselines(model, SETS, [method], ["signed"], 2, TARGETS, AGAINST, **words)[f"{method}_signed"]
    for name, samples in SETS.items():
        wanted = attribute(
            model, samples, sign="signed", variant=variant, targets=TARGETS[name], against=AGAINST.get(name), **words
        )  # type: ignore[arg-type]
        ours = found.sets[name]
        assert ours.manifest["options"] == wanted.manifest["options"]
        assert ours.manifest["data"] == {**wanted.manifest["data"], "name": name}
        assert ours.manifest["data"]["target_ids"] == TARGETS[name]
        for layer in UP:
            torch.testing.assert_close(ours.scores[layer], wanted.scores[layer])


def test_only_what_explains_targets_names_what_they_are_contrasted_with() -> None:
    found = score_baselines(
        tiny_llama(), SETS, ["lrp", "wanda", "auroc"], targets=TARGETS, against=AGAINST, target="next_token", **ROLES
    )
    assert found["lrp"].sets["toxic"].manifest["data"]["against_ids"] == AGAINST["toxic"]
    assert "against_ids" not in found["lrp"].sets["general"].manifest["data"]
    assert "against_ids" not in found["wanda"].sets["toxic"].manifest["data"]
    assert found["auroc"].ranking is not None
    assert "against_ids" not in found["auroc"].ranking.manifest["inputs"]["behaviour"]


@pytest.mark.parametrize("method", ["lrp", "cp_lrp", "gradient"])
@pytest.mark.parametrize(
    ("targets", "against", "said"),
    [
        (None, None, r"`targets\['general'\]` must be given with `target=\"next_token\"` .* and none targets"),
        ({"general": [1] * 7}, None, r"`targets\['toxic'\]` must be given"),
        ({**TARGETS, "toxic": [7, 0]}, None, r"`targets\['toxic'\]` must hold .* each of the 3 samples, got 2"),
        ({**TARGETS, "toxic": [7, -1, 0]}, None, r"`targets\['toxic'\]` must hold .* between 0 and 47 .*-1"),
        (TARGETS, {"toxic": [1, 48, 1]}, r"`against\['toxic'\]` must hold .* between -1 and 47"),
        ({**TARGETS, "rude": [1]}, None, r"`targets` must name sets of \['general', 'toxic'\], got \['rude'\]"),
        (TARGETS, {"rude": [1]}, r"`against` must name sets of .*got \['rude'\]"),
    ],
)
def test_targets_that_do_not_fit_their_sets(method: str, targets: Any, against: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        score_baselines(tiny_llama(), SETS, [method], targets=targets, against=against, target="next_token")


def test_targets_of_another_target_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`targets\['general'\]` must be given with .* got target 'last_token_argmax'"
    ):
        score_baselines(tiny_llama(), SETS, ["lrp"], targets=TARGETS)


@pytest.mark.filterwarnings("ignore:only . of the 5 selected neurons")
def test_every_method_selects_like_lrp() -> None:
    model = tiny_llama()
    found = score_baselines(model, SETS, [name for name in METHODS if name != "wanda_sequential"], **ROLES)
    for key, scores in found.items():
        contrast = scores.contrast(["general"], "toxic")
        recipe = select_neurons(contrast, 5)
        lowest = torch.cat(list(neuron_scores(contrast).values())).sort().values[:5]
        assert recipe.options["method"] == key
        assert recipe.base_model["weight_hash"] == contrast.manifest["base_model"]["weight_hash"]
        torch.testing.assert_close(torch.tensor(recipe.scores, dtype=torch.float64), lowest)


def test_penalties_act_as_on_lrp() -> None:
    model = tiny_llama()
    scores = score_baselines(model, SETS, ["wanda"])["wanda"]
    contrast = scores.contrast(["general"], "toxic", general_weight=4.0)
    for name in UP:
        wanted = 4 * scores.sets["general"].scores[name] - scores.sets["toxic"].scores[name]
        torch.testing.assert_close(contrast.scores[name], wanted)


def test_magnitude_takes_the_smallest_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.get_submodule(UP[1]).weight[7] *= 1e-3
    ranking = score_baselines(model, SETS, ["magnitude"])["magnitude"].contrast(["general"], "toxic")
    assert select_neurons(ranking, 1).neurons == [(1, 7)]
    assert not [warning for warning in recwarn if "differential" in str(warning.message)]


def test_auroc_finds_the_neuron_that_fires_on_the_behaviour_alone() -> None:
    """Samples of the behaviour hold token 5; one neuron reads that token's embedding, and nothing else."""
    model = tiny_llama(initializer_range=0.02)
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = 3.0 * torch.eye(16)[0]
        for part in ("up_proj", "gate_proj"):
            model.get_submodule(f"model.layers.0.mlp.{part}").weight[11] = 5.0 * torch.eye(16)[0]
    general = [torch.tensor([7, 8, 9 + n]) for n in range(12)]
    toxic = [torch.tensor([7, 5, 9 + n]) for n in range(12)]
    found = score_baselines(model, {"general": general, "toxic": toxic}, ["auroc", "activation"], **ROLES)
    ranking = found["auroc"].ranking
    assert ranking is not None
    assert float(ranking.scores[UP[0]][11]) == -0.5
    assert (0, 11) in select_neurons(found["activation"].contrast(["general"], "toxic"), 1).neurons


def test_sets_of_different_methods_do_not_combine() -> None:
    found = score_baselines(tiny_llama(), SETS, ["wanda", "wanda_mean", "gradient", "lrp", "magnitude"])
    with pytest.raises(ValueError, match=r"options agree.*'method': 'wanda'.*'method': 'wanda_mean'"):
        differential([found["wanda"].sets["general"]], found["wanda_mean"].sets["toxic"])
    with pytest.raises(ValueError, match="options agree"):
        differential([found["lrp"].sets["general"]], found["gradient"].sets["toxic"])
    ranking = found["magnitude"].ranking
    assert ranking is not None
    with pytest.raises(ValueError, match="one reference set each, got a ranking"):
        differential([ranking], ranking)


def test_scores_come_back_from_disk(tmp_path: Any) -> None:
    found = score_baselines(tiny_llama(), SETS, ["wanda", "auroc", "random"], seed=3, **ROLES)
    for key, scores in found.items():
        score_set = scores.ranking or scores.sets["toxic"]
        loaded = ScoreSet.load(score_set.save(tmp_path / key))
        assert loaded.manifest["options"]["method"] == key
        assert all(torch.equal(loaded.scores[name], score_set.scores[name]) for name in UP)
    manifest = ScoreSet.load(tmp_path / "random").manifest
    assert (manifest["kind"], manifest["options"]["seed"]) == ("ranking", 3)
    manifest = ScoreSet.load(tmp_path / "auroc").manifest
    assert manifest["inputs"]["behaviour"]["num_samples"] == len(TOXIC)


def test_the_model_is_as_it_was() -> None:
    model = tiny_llama().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = gradients(model, TOXIC[0])
    score_baselines(model, SETS, [*METHODS], **ROLES)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    after = gradients(model, TOXIC[0])
    assert all(torch.equal(after[name], gradient) for name, gradient in plain.items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("methods", "options", "said"),
    [
        (["wandaa"], {}, r"`methods` must be of \['lrp', .*got \['wandaa'\]"),
        ([], {}, "`methods` must be of"),
        (["gradient"], {"signs": ["plus"]}, r"`signs` must be of .*got \['plus'\]"),
        (["auroc"], {}, "which sets are general"),
    ],
)
def test_what_cannot_be_scored_is_refused(methods: list[str], options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        score_baselines(tiny_llama(), SETS, methods, **options)


def test_the_page_has_every_method() -> None:
    page = (Path(__file__).parents[3] / "docs" / "baselines.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)[1:] == list(METHODS)
