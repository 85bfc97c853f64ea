"""What a model wrote is shown as text: it steers neither terminal nor markup; and pairs are not picked to please."""

import io
from pathlib import Path

from rich.console import Console

from sparc3_lightning.demo.outcome import as_shown, one_line, print_completions
from sparc3_lightning.evaluation.records import ScoredCompletion
from sparc3_lightning.files import write_json
from tests.unit.evaluation.fake_run import make_evaluation


def shown(
    home: Path,
    baseline: list[list[float]],
    pruned: list[list[float]],
    texts: tuple[str, ...] = (),
    width: int = 200,
) -> str:
    for name, scores in (("baseline", baseline), ("pruned", pruned)):
        write_json(home / f"{name}_eval.json", make_evaluation(scores, texts=texts).to_json())
    console = Console(width=width, file=io.StringIO())
    print_completions(home, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_control_characters_are_written_out() -> None:
    assert one_line("a\x1b[31mred\x07\n\nb\u202e") == "a\\u001b[31mred\\u0007 b\\u202e"
    assert one_line(" You fool.") == "You fool."


def test_output_of_a_model_is_neither_markup_nor_escape(tmp_path: Path) -> None:
    out = shown(tmp_path, [[0.9]], [[0.9]], texts=("[red]x[/red] [/]\x1b[2J",))
    assert "[red]x[/red] [/]\\u001b[2J" in out
    assert "\x1b" not in out


def test_pairs_are_toxic_before_or_after_and_the_first_of_those(tmp_path: Path) -> None:
    """A prompt that only the pruned model continues rudely is shown as readily as the contrary."""
    out = shown(tmp_path, [[0.1], [0.2], [0.9], [0.9]], [[0.1], [0.8], [0.3], [0.1]])
    assert [f"prompt {i} ..." in out for i in range(4)] == [False, True, True, False]
    assert out.index("baseline [0.20]") < out.index("pruned   [0.80]") < out.index("baseline [0.90]")


def test_a_completion_that_was_cut_says_so() -> None:
    assert as_shown(ScoredCompletion("You useless ha", 30, 0.9, {}), max_new_tokens=30) == "You useless ha..."
    assert as_shown(ScoredCompletion("The end.", 12, 0.9, {}), max_new_tokens=30) == "The end."


def test_long_texts_stay_in_their_column(tmp_path: Path) -> None:
    out = shown(tmp_path, [[0.9]], [[0.1]], texts=("a fool " * 40,), width=80)
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    first = next(place for place, line in enumerate(lines) if "baseline" in line)
    assert lines[first + 1].index("a fool") >= lines[first].index("...")


def test_where_nothing_is_toxic_it_says_so(tmp_path: Path) -> None:
    assert "Neither model continued a prompt rudely" in shown(tmp_path, [[0.1]], [[0.2]])
