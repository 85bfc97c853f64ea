"""`attribute`, as a user calls it."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from sparc3_lightning import ScoreSet, attnlrp, attribute, differential
from tests.tiny import LAYERS, NEURONS, VOCAB, tiny_llama, tiny_samples

SAMPLES = tiny_samples()


def test_shapes_names_and_manifest() -> None:
    model = tiny_llama()
    scores = attribute(model, SAMPLES)
    assert isinstance(scores, ScoreSet)
    assert list(scores.scores) == [f"model.layers.{layer}.mlp.up_proj" for layer in range(LAYERS)]
    assert {tuple(score.shape) for score in scores.scores.values()} == {(NEURONS,)}
    assert {score.dtype for score in scores.scores.values()} == {torch.float32}
    weight = attribute(model, SAMPLES, granularity="weight", modules="*.down_proj")
    assert {tuple(score.shape) for score in weight.scores.values()} == {(16, NEURONS)}
    manifest = scores.manifest
    assert manifest["options"] == {
        "method": "lrp",
        "variant": "attnlrp",
        "target": "last_token_argmax",
        "explain": "logit",
        "sign": "abs",
        "granularity": "neuron",
        "modules": "neurons",
    }
    assert manifest["data"]["num_samples"] == 7
    assert manifest["data"]["num_tokens"] == sum(len(sample) for sample in SAMPLES)
    assert manifest["relevance_per_sample"] == pytest.approx(scores.total)
    assert manifest["base_model"]["num_neurons"] == LAYERS * NEURONS


def test_target_ids_are_kept_in_the_samples_order() -> None:
    model = tiny_llama()
    kept = attribute(model, SAMPLES, batch_size=3).manifest["data"]["target_ids"]
    with torch.no_grad():
        assert kept == [int(model(input_ids=sample[None]).logits[0, -1].argmax()) for sample in SAMPLES]
    assert attribute(model, SAMPLES, target=(3, 1)).manifest["data"]["target_ids"] == [3] * 7


def test_token_hash_tells_samples_apart() -> None:
    model = tiny_llama()
    hashes = [
        attribute(model, samples).manifest["data"]["token_hash"]
        for samples in (SAMPLES, SAMPLES[::-1], [torch.cat(SAMPLES[:2]), *SAMPLES[2:]], [s.int() for s in SAMPLES])
    ]
    assert hashes[3] == hashes[0]
    assert len(set(hashes)) == 3


def test_contrast_is_the_difference_of_two_targets() -> None:
    model = tiny_llama(dtype=torch.float64)
    first, second, contrast = (
        attribute(model, SAMPLES[:1], sign="signed", target=target).scores for target in (3, 1, "contrast:3:1")
    )
    for name, score in contrast.items():
        assert torch.allclose(score, first[name] - second[name], rtol=0, atol=1e-6)


def test_targets_differ() -> None:
    model = tiny_llama()
    totals = [attribute(model, SAMPLES, target=target).total for target in ("last_token_argmax", 3, (3, 1))]
    assert len(set(totals)) == 3


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "`samples` must hold at least one"),
        ([SAMPLES[0], torch.tensor([], dtype=torch.int64)], r"`samples\[1\]` must hold 1 to 32 tokens .* got 0"),
        ([torch.ones(33, dtype=torch.int64)], r"`samples\[0\]` must hold 1 to 32 tokens .* got 33"),
        ([SAMPLES[0][None]], r"`samples\[0\]` must be a 1-D integer tensor .* shape \(1, 7\)"),
        ([SAMPLES[0].float()], r"`samples\[0\]` must be a 1-D integer tensor .*float32"),
        ([[1, 2, 3]], r"`samples\[0\]` must be a 1-D integer tensor .* got list"),
        ([torch.tensor([1, VOCAB])], r"`samples\[0\]` must hold token ids between 0 and 47, got 1 to 48"),
        ([torch.tensor([-1, 2])], r"`samples\[0\]` must hold token ids between 0 and 47, got -1 to 2"),
    ],
)
def test_bad_samples_are_refused(samples: list[torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute(tiny_llama(), samples)


def test_a_sample_as_long_as_the_context_is_fine() -> None:
    assert attribute(tiny_llama(), tiny_samples((32, 1))).total > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "row"}, "`granularity` must be one of .*neuron.*weight.*got 'row'"),
        ({"sign": "absolute"}, "`sign` must be one of .*abs.*signed.*got 'absolute'"),
        ({"variant": "lrp"}, "`variant` must be one of .*got 'lrp'"),
        ({"target": "argmax"}, "`target` must be .*got 'argmax'"),
        ({"target": VOCAB}, "`target` ids must be between 0 and 47, got 48"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"modules": "fc1"}, "`modules` must be .*'fc1', which matches none"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute(tiny_llama(), SAMPLES, **options)


def test_unknown_model_type() -> None:
    # Trap 10: an unknown architecture is an error that lists the known ones, never plain gradients.
    model = tiny_llama()
    model.config.model_type = "bert"
    for call in (lambda: attribute(model, SAMPLES), lambda: attnlrp(model).__enter__()):
        with pytest.raises(ValueError, match=r"must be one of \[.*'opt', 'phi3', 'qwen2'.*got 'bert'"):
            call()


def test_inside_the_context_it_is_refused() -> None:
    model = tiny_llama()
    with attnlrp(model), pytest.raises(RuntimeError, match="already active"):
        attribute(model, SAMPLES)


def test_nothing_imports_lightning() -> None:
    code = (
        "import sys; from sparc3_lightning import "
        "ScoreSet, apply_recipe, attnlrp, attribute, differential, select_neurons\n"
        "print([name for name in ('lightning', 'pytorch_lightning', 'datasets') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp", "gradient"])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_each_sample_is_explained_by_its_own_token(variant: str, batch_size: int) -> None:
    model = tiny_llama(dtype=torch.float64)
    targets, against = [3, 5, 3, 0, 47, 11, 2], [1, -1, 2, -1, 0, -1, 3]
    found = attribute(
        model, SAMPLES, sign="signed", target="next_token", targets=targets, against=against, batch_size=batch_size,
        variant=variant,
    )  # fmt: skip
    assert found.manifest["data"]["target_ids"] == targets
    alone = [
        attribute(model, [ids], sign="signed", target=own if other < 0 else (own, other), variant=variant).scores
        for ids, own, other in zip(SAMPLES, targets, against, strict=True)
    ]
    for name, score in found.scores.items():
        mean = torch.stack([scores[name].double() for scores in alone]).mean(0)
        torch.testing.assert_close(score.double(), mean, rtol=0, atol=1e-6 * float(mean.abs().max()))


def test_the_manifest_names_what_targets_are_contrasted_with() -> None:
    model, targets, against = tiny_llama(), [3, 5, 3, 0, 47, 11, 2], [1, -1, 2, -1, 0, -1, 3]
    plain, none, contrasted = (
        attribute(model, SAMPLES, target="next_token", targets=targets, against=given)
        for given in (None, [-1] * 7, against)
    )
    assert contrasted.manifest["data"]["against_ids"] == against
    assert "against_ids" not in plain.manifest["data"]
    assert "against_ids" not in none.manifest["data"]
    assert all(torch.equal(score, none.scores[name]) for name, score in plain.scores.items())
    assert differential(plain, none).manifest["kind"] == "differential"
    with pytest.raises(ValueError, match=r"'contrasted': False.*'contrasted': True"):
        differential(plain, contrasted)


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
def test_logprob_is_what_autograd_says_without_rules(granularity: str) -> None:
    model = tiny_llama(dtype=torch.float64)
    ids, token = SAMPLES[2], 5
    model.zero_grad()
    model(input_ids=ids[None]).logits[0, -1].log_softmax(-1)[token].backward()
    weight = model.model.layers[0].mlp.up_proj.weight
    expected = weight.detach() * weight.grad
    found = attribute(
        model, [ids], sign="signed", target=token, explain="logprob", variant="gradient", granularity=granularity
    )  # type: ignore[call-overload, unused-ignore]
    assert found.manifest["options"]["explain"] == "logprob"
    score = found.scores["model.layers.0.mlp.up_proj"].double()
    expected = expected if granularity == "weight" else expected.sum(1)
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "next_token"}, "`targets` must be given"),
        ({"targets": [1] * 7}, "`targets` must be given"),
        ({"target": "next_token", "targets": [1] * 6}, "for each of the 7 samples, got 6"),
        ({"target": "next_token", "targets": [VOCAB] * 7}, "between 0 and 47"),
        ({"target": "next_token", "targets": [-1] + [1] * 6}, r"between 0 and 47 .* got 7: \[-1, 1"),
        ({"target": "next_token", "targets": [1] * 7, "against": [-2] * 7}, "`against` must hold"),
        ({"against": [1] * 7}, "`against` must be given with .* and with no other, got target 'last_token_argmax'"),
    ],
)
def test_targets_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute(tiny_llama(), SAMPLES, **options)
