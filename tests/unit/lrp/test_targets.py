"""What is explained."""

import pytest
import torch

from sparc3_lightning.lrp.targets import Target, lowest_argmax, parse_target

LOGITS = torch.tensor([[1.0, 5.0, 5.0, 2.0], [7.0, 0.0, 7.0, 7.0], [0.0, 1.0, 2.0, 3.0]])


def test_ties_go_to_the_lowest_id() -> None:
    assert lowest_argmax(LOGITS).tolist() == [1, 0, 3]
    assert lowest_argmax(LOGITS.flip(1)).tolist() == [1, 0, 0]
    # long rows: torch.argmax's own choice depends on vectorisation
    many = torch.zeros(2, 50000)
    many[:, [17, 18, 49999]] = 1.0
    assert lowest_argmax(many).tolist() == [17, 17]


def test_ties_of_bfloat16_logits() -> None:
    wide = torch.tensor([[1.0, 256.0, 256.5]])  # one number in bfloat16
    assert lowest_argmax(wide).tolist() == [2]
    assert Target().select(wide.bfloat16())[1].tolist() == [1]


def test_argmax_with_nan_or_inf() -> None:
    logits = torch.tensor([[1.0, 2.0, torch.nan, torch.nan], [1.0, torch.inf, 0.0, torch.inf]])
    assert lowest_argmax(logits).tolist() == [2, 1]
    assert torch.isnan(Target().select(logits)[0][0])


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("last_token_argmax", Target()),
        (3, Target(3)),
        ("token:3", Target(3)),
        ((3, 1), Target(3, 1)),
        ([3, 1], Target(3, 1)),
        ("contrast:3:1", Target(3, 1)),
        (Target(2), Target(2)),
        ("next_token", Target(next_token=True)),
    ],
)
def test_forms(written: object, target: Target) -> None:
    assert parse_target(written, 4) == target
    assert parse_target(str(target), 4) == target


@pytest.mark.parametrize(
    "written",
    [
        "argmax",
        "token",
        "token:",
        "token:x",
        "token:1:2",
        "contrast:1",
        "contrast:1:2:3",
        (),
        (1, 2, 3),
        ("a",),
        None,
        1.5,
        True,
    ],
)
def test_other_forms_are_refused(written: object) -> None:
    with pytest.raises(
        ValueError, match=r"`target` must be 'last_token_argmax', 'next_token', 'token:ID' or 'contrast:ID:ID'"
    ):
        parse_target(written, 4)


@pytest.mark.parametrize("written", [4, -1, "token:-1", "token:4", (0, 4), "contrast:-2:0"])
def test_ids_outside_the_vocabulary_are_refused(written: object) -> None:
    with pytest.raises(ValueError, match="between 0 and 3"):
        parse_target(written, 4)


def test_values() -> None:
    for target, values, ids in (
        (Target(), [5.0, 7.0, 3.0], [1, 0, 3]),
        (Target(3), [2.0, 7.0, 3.0], [3, 3, 3]),
        (Target(3, 1), [-3.0, 7.0, 2.0], [3, 3, 3]),
    ):
        found = target.select(LOGITS)
        assert found[0].tolist() == values
        assert found[1].tolist() == ids


def test_gradient_starts_at_one() -> None:
    # Trap-free start (method.md, section 1): not the loss, not the square, not a sum over positions.
    logits = LOGITS.clone().requires_grad_()
    Target(2, 0).select(logits)[0].sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 0.0, 1.0, 0.0]] * 3


def test_low_precision_logits_become_float32() -> None:
    assert Target().select(LOGITS.bfloat16())[0].dtype == torch.float32
    assert Target().select(LOGITS.double())[0].dtype == torch.float64


def test_each_sample_has_its_own_token() -> None:
    values, ids = Target(next_token=True).select(LOGITS, torch.tensor([3, 0, 1]))
    assert ids.tolist() == [3, 0, 1]
    assert values.tolist() == [2.0, 7.0, 1.0]


def test_each_token_may_be_contrasted_with_another() -> None:
    values, _ = Target(next_token=True).select(LOGITS, torch.tensor([3, 0, 1]), torch.tensor([1, -1, 0]))
    assert values.tolist() == [-3.0, 7.0, 1.0]


def test_next_token_needs_the_tokens() -> None:
    with pytest.raises(ValueError, match="needs the token that follows each sample"):
        Target(next_token=True).select(LOGITS)


def test_only_a_sample_of_weight_zero_may_name_no_token() -> None:
    target, tokens = Target(next_token=True), torch.tensor([-1, 0, -1])
    assert target.missing(tokens, torch.tensor([1.0, 1.0, 0.0])).tolist() == [True, False, False]  # type: ignore[union-attr]
    assert target.missing(tokens).tolist() == [True, False, True]  # type: ignore[union-attr]
    assert Target().missing(tokens) is None


@pytest.mark.parametrize("target", [Target(2), Target(), Target(next_token=True)])
def test_logprob_is_the_logit_minus_logsumexp(target: Target) -> None:
    targets = torch.tensor([3, 0, 1])
    logits, ids = target.select(LOGITS, targets)
    found, same = parse_target(target, 4, "logprob").select(LOGITS, targets)
    assert same.tolist() == ids.tolist()
    torch.testing.assert_close(found, logits - LOGITS.logsumexp(1))


def test_logprob_is_blind_to_what_moves_all_logits() -> None:
    logits = LOGITS.double().requires_grad_()
    Target(2, explain="logprob").select(logits)[0].sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.sum(1), torch.zeros(3, dtype=torch.float64))


def test_another_word_for_explain_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`explain` must be one of \('logit', 'logprob'\), got 'odds'. Set `model.explain`"
    ):
        parse_target("next_token", 4, "odds")  # type: ignore[arg-type]
