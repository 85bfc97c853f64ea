"""Whole models against the slow float64 reference, which propagates relevance as relevance."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.lrp.attribution import Attribution
from tests.reference import rules
from tests.reference.absolute import AbsoluteReference
from tests.reference.llama import Reference
from tests.tiny import PARTS, RMS_NORM, TINY, tiny_gpt2, tiny_llama, tiny_qwen2, tiny_samples


@pytest.fixture(autouse=True)
def exact_norms(wide_softmax: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' norms compute in float32 even in a float64 model; the rules keep whatever forward there is."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        # Gemma's calls its epsilon so, and multiplies by 1 + weight.
        gain, eps = (1.0 + self.weight, self.eps) if hasattr(self, "eps") else (self.weight, self.variance_epsilon)
        return gain * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))

    for family in RMS_NORM:
        monkeypatch.setattr(type(TINY[family]().model.norm), "forward", forward)


def summed(model: PreTrainedModel, samples: list[Tensor], batch_size: int, **options: object) -> dict[str, Tensor]:
    with Attribution(model, modules="all", granularity="weight", **options) as attribution:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)
            attribution.step(ids, torch.tensor([len(sample) for sample in batch]))
        return {name: total.clone() for name, total in attribution.sums().items()}


def expected(model: PreTrainedModel, samples: list[Tensor], variant: str) -> dict[str, Tensor]:
    """Relevance of each weight, one sample above the other."""
    found: dict[str, list[Tensor]] = {}
    for sample in samples:
        kind = Reference if model.config.model_type in RMS_NORM else AbsoluteReference
        reference = kind(model.config, model.state_dict(), variant)
        reference.run(sample)
        torch.testing.assert_close(reference.logits, model(input_ids=sample[None]).logits[0], rtol=1e-9, atol=1e-9)
        for name, relevance in reference.relevance.items():
            found.setdefault(name, []).append(relevance)
    return {name: torch.stack(parts) for name, parts in found.items()}


@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("family", sorted(TINY))
def test_relevance_of_every_weight(family: str, variant: str) -> None:
    model, samples = TINY[family](dtype=torch.float64), tiny_samples((7, 3, 1, 6))
    reference = expected(model, samples, variant)
    for sign in ("abs", "signed"):
        ours = summed(model, samples, batch_size=3, variant=variant, sign=sign)
        assert len(ours) == len(PARTS[family].linears) * model.config.num_hidden_layers + 1
        for name, score in ours.items():
            if name in reference:
                wanted = (reference[name].abs() if sign == "abs" else reference[name]).sum(0)
                assert (score - wanted).abs().max() <= 1e-9 * wanted.abs().max(), name
            else:
                assert variant == "cp_lrp"
                assert name.endswith(PARTS[family].without_cp_lrp)
                assert not score.any(), name


@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt_neox", {"use_parallel_residual": False}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("granite", {"attention_bias": True, "mlp_bias": True}),
        ("gemma2", {"hidden_activation": "gelu"}),
    ],
)
def test_what_a_config_of_a_family_may_say(family: str, options: dict[str, object], variant: str) -> None:
    model, samples = TINY[family](dtype=torch.float64, **options), tiny_samples((7, 3))
    for name, parts in expected(model, samples, variant).items():
        score = summed(model, samples, batch_size=2, variant=variant)[name]
        wanted = parts.abs().sum(0)
        assert (score - wanted).abs().max() <= 1e-9 * wanted.max(), name


@pytest.mark.parametrize("activation", sorted(rules.ACTIVATIONS))
def test_every_activation(activation: str) -> None:
    model, samples = tiny_llama(dtype=torch.float64, hidden_act=activation), tiny_samples((5, 2))
    reference = expected(model, samples, "attnlrp")
    for name, score in summed(model, samples, batch_size=2).items():
        wanted = reference[name].abs().sum(0)
        assert (score - wanted).abs().max() <= 1e-9 * wanted.max(), name


def test_targets_other_than_the_argmax() -> None:
    model, (sample,) = tiny_qwen2(dtype=torch.float64), tiny_samples((6,))
    for target, factors in (("token:7", [(7, 1.0)]), ("contrast:7:3", [(7, 1.0), (3, -1.0)])):
        reference = Reference(model.config, model.state_dict())
        reference.run(sample, factors)
        for name, score in summed(model, [sample], 1, target=target).items():
            wanted = reference.relevance[name].abs()
            assert (score - wanted).abs().max() <= 1e-9 * wanted.max(), (target, name)


def test_cp_lrp_conserves_and_attnlrp_does_not() -> None:
    # method.md, trap 12: the second is no fault, but if both conserved, the rules would not be told apart here.
    model, (sample,) = tiny_llama(dtype=torch.float64), tiny_samples((8,))
    reference = Reference(model.config, model.state_dict(), "cp_lrp")
    assert reference.run(sample) == pytest.approx(reference.logits[-1].max().item(), rel=1e-9)
    reference = Reference(model.config, model.state_dict(), "attnlrp")
    assert reference.run(sample) != pytest.approx(reference.logits[-1].max().item(), rel=1e-3)


def test_gpt2_gives_queries_and_keys_nothing_under_cp_lrp() -> None:
    """They are made together with the values: their rows are exact zeros, and no other is."""
    model = tiny_gpt2(dtype=torch.float64)
    score = summed(model, tiny_samples(), 7, variant="cp_lrp")["transformer.h.0.attn.c_attn"]
    assert score.shape == (48, 16)
    assert not score[:32].any()
    assert score[32:].sum(1).all()


def test_layer_norm_rule_one_token_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, relevance = torch.randn(4, 5, generator=generator).double()
    centre = torch.eye(5).double() - 0.2
    matrix = (weight / torch.sqrt(x.var(correction=0) + 1e-5))[:, None] * centre
    assert torch.allclose(matrix @ x + bias, rules.layer_norm(x[None], weight, bias, 1e-5)[0], rtol=1e-12)
    by_hand = rules.linear(x, matrix, relevance, bias)
    ours = rules.layer_norm_back(x[None], weight, bias, 1e-5, relevance[None])[0]
    assert torch.allclose(by_hand, ours, rtol=1e-12)


def test_linear_rule_one_token_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, relevance = (torch.randn(*s, generator=generator).double() for s in ((3,), (4, 3), (4,)))
    by_hand = rules.linear(x, weight, relevance)
    share = relevance / (weight @ x)
    assert torch.allclose(by_hand, x * (share @ weight), rtol=1e-12)
    assert torch.allclose(rules.weight_relevance(x[None], weight, relevance[None]).sum(0), by_hand, rtol=1e-12)
