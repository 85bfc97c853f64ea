"""How far a loop has come, in lines: by a clock that the tests turn."""

import pytest

from sparc3_lightning.loops import Counted, Lines, duration, how_far, rate


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.said: list[str] = []
        self.lines = Lines(self.said.append, lambda: self.now)


def test_a_line_at_the_start_then_one_a_minute() -> None:
    clock = Clock()
    stage = clock.lines.begin("screen", 300, "candidates")
    for _ in range(300):
        clock.now += 0.5
        stage.advance()
    assert clock.said == [
        "screen: 300 candidates",
        "screen: 120 of 300 candidates, 2.0 per s, 1:30 left",
        "screen: 240 of 300 candidates, 2.0 per s, 0:30 left",
    ]


def test_a_loop_of_seconds_has_one_line() -> None:
    clock = Clock()
    for _ in clock.lines.watch(range(10), 10, "baseline"):
        clock.now += 5.0
    assert clock.said == ["baseline: 10 batches"]


def test_items_count_by_their_size() -> None:
    clock = Clock()
    batches = [["a"] * 16, ["b"] * 16, ["c"] * 8]
    seen = []
    for batch in clock.lines.watch(Counted(batches, "windows", 40, len), 3, "perplexity"):
        seen.append(batch)
        clock.now += 80.0
    assert seen == batches
    assert clock.said == [
        "perplexity: 40 windows",
        "perplexity: 16 of 40 windows, 12.0 per min, 2:00 left",
        "perplexity: 32 of 40 windows, 12.0 per min, 0:40 left",
        "perplexity: 40 of 40 windows, 6.0 per min, 0:00 left",
    ]


def test_a_loop_inside_another_has_no_line_at_its_start() -> None:
    """A sweep of a hundred models would have hundreds."""
    clock = Clock()
    for _ in clock.lines.watch(Counted(range(2), "models", 2), 2, "sweep"):
        for _ in clock.lines.watch(range(5), 5, "perplexity"):
            clock.now += 20.0
    assert clock.said == [
        "sweep: 2 models",
        "perplexity: 3 of 5 batches, 3.0 per min, 0:40 left",
        "sweep: 1 of 2 models, 36.0 per h, 1:40 left",
        "perplexity: 3 of 5 batches, 3.0 per min, 0:40 left",
        "sweep: 2 of 2 models, 36.0 per h, 0:00 left",
    ]
    assert list(clock.lines.watch(range(1), 1, "next")) == [0]
    assert clock.said[-1] == "next: 1 batches", "outside again"


def test_a_loop_that_breaks_is_over() -> None:
    clock = Clock()

    def work() -> None:
        for _ in clock.lines.watch(range(2), 2, "first"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    list(clock.lines.watch(range(2), 2, "second"))
    assert clock.said == ["first: 2 batches", "second: 2 batches"]


def test_what_an_earlier_run_has_done_foretells_nothing() -> None:
    clock = Clock()
    stage = clock.lines.begin("attribution of toxic", 300, "samples", done=200)
    clock.now += 60.0
    stage.advance(10)
    assert clock.said == [
        "attribution of toxic: 300 samples, 200 of them done before",
        "attribution of toxic: 210 of 300 samples, 10.0 per min, 9:00 left",
    ]


def test_figures_read_from_a_file_do_not_flatter_later_ones() -> None:
    """The first 200 come at once; then 10 take a minute."""
    clock = Clock()
    stage = clock.lines.begin("screen", 300, "candidates")
    for number in range(220):
        clock.now += 0.0 if number < 200 else 6.0
        stage.advance()
    assert clock.said[-1] == "screen: 220 of 300 candidates, 10.0 per min, 8:00 left"


def test_a_padded_last_batch_counts_no_more_than_there_is() -> None:
    clock = Clock()
    stage = clock.lines.begin("attribution", 5, "samples")
    clock.now += 60.0
    stage.advance(8)
    assert clock.said[-1] == "attribution: 5 of 5 samples, 5.0 per min, 0:00 left"


def test_without_a_total_there_is_no_time_left() -> None:
    clock = Clock()
    stage = clock.lines.begin("choose words", None, "texts scored")
    clock.now += 60.0
    stage.advance(1200)
    assert clock.said == ["choose words", "choose words: 1,200 texts scored, 20.0 per s"]


def test_nothing_done_has_no_rate() -> None:
    assert how_far(0, 300, "candidates", 0.0) == "0 of 300 candidates"


@pytest.mark.parametrize(
    ("per_second", "words"),
    [(1234.4, "1,234 per s"), (2.14, "2.1 per s"), (0.5, "30.0 per min"), (0.01, "36.0 per h"), (1e-4, "0.4 per h")],
)
def test_a_rate_is_in_the_unit_that_makes_it_legible(per_second: float, words: str) -> None:
    assert rate(per_second) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0:00"), (86.2, "1:26"), (3599.7, "1:00:00"), (3723, "1:02:03")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The results, on standard output, can be read by a program."""
    list(Lines().watch(range(2), 2, "sweep"))
    assert capsys.readouterr() == ("", "sweep: 2 batches\n")
