"""How figures are written."""

from sparc3_lightning.wording import number, p_equals, p_value, percent


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
    assert [p_equals(value) for value in (0.0001, 0.0312)] == ["p < 0.001", "p = 0.031"]
    assert [p_value(value) for value in (0.0001, 0.0312, 1.0)] == ["<0.001", "0.031", "1.000"]
