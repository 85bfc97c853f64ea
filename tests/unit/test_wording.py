"""How figures are written."""

import pytest

from sparc3_lightning.wording import NATS, joint_effect, number, p_equals, p_value, percent, task_name


def test_numbers() -> None:
    assert [number(value) for value in (None, 0.12345, 1.9999, 5.468, 999.9, 12345.6)] == [
        "-",
        "0.123",
        "2.000",
        "5.47",
        "999.90",
        "12,346",
    ]
    assert [percent(value) for value in (None, 0.0123, -0.5, 12.0)] == ["-", "+1.2%", "-50.0%", "+1,200%"]
    assert [percent(-1e-5), percent(-1e-5, "")] == ["+0.0%", "0.0%"], "nothing has no sign"
    assert [p_equals(value) for value in (0.0001, 0.0312)] == ["p < 0.001", "p = 0.031"]
    assert [p_value(value) for value in (0.0001, 0.0312, 1.0)] == ["<0.001", "0.031", "1.000"]


@pytest.mark.parametrize(
    ("unit", "figures", "told"),
    [
        (NATS, (0.5, 0.02, 0.01), "lower the behaviour's words by 0.500 nats and ordinary words by 0.020, and raise "
         "the price text's perplexity by 1.01%."),
        (NATS, (0.5, -0.02, -0.003), "lower the behaviour's words by 0.500 nats, raise ordinary words by 0.020, and "
         "lower the price text's perplexity by 0.30%."),
        (NATS, (-0.5, 0.0, 0.0), "raise the behaviour's words by 0.500 nats, lower ordinary words by 0.000, and raise "
         "the price text's perplexity by 0.00%."),
        (NATS, (0.5, 0.02, 0.01, -0.02), "lower the behaviour's words by 0.500 nats and ordinary words by 0.020, and "
         "raise the price text's perplexity by 1.01% (-1.98% on other passages of it, which have chosen nothing)."),
        ("toxicity", (0.25, 0.0, -0.003), "lower the mean toxicity of the behaviour's completions by 0.250, and lower "
         "the price text's perplexity by 0.30%."),
    ],
)  # fmt: skip
def test_what_moves_the_other_way_is_said_to(unit: str, figures: tuple[float, ...], told: str) -> None:
    assert joint_effect(unit, *figures) == f"together they {told}"


@pytest.mark.parametrize(
    ("draws", "name"),
    [
        (["ioi_seed0", "ioi_seed1", "ioi_seed12"], "ioi"), (["ioi_seed3"], "ioi"), (["capitals"], "capitals"),
        (["gpt2_a", "gpt2_b"], "gpt2"), (["seed0", "seed1"], "seed0"), (["first", "second"], "first"),
        (["tom", "tim"], "tom"), (["ioi_tom", "ioi_tim"], "ioi"), (["ioi10", "ioi11"], "ioi"), (["a-b", "a.b"], "a"),
        (["task1a", "task1b"], "task1"),
    ],
)  # fmt: skip
def test_a_task_is_called_by_what_its_draws_names_begin_with(draws: list[str], name: str) -> None:
    assert task_name(draws) == name
