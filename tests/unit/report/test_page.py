"""The page: nothing that a model wrote is more than text, nothing is fetched, nothing is left out."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparc3_lightning import commands
from sparc3_lightning.files import write_json
from sparc3_lightning.main import main
from sparc3_lightning.report import page
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.read import read_run
from sparc3_lightning.wording import spaced, visible
from tests.unit.evaluation.fake_run import make_evaluation, make_run
from tests.unit.report.conftest import write_run

NASTY = [
    "<script>document.title = 'run'</script>",
    '"><img src="http://example.org/x.png" onerror="alert(1)">',
    "</bdi></p><style>* { display: none }</style>",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; <!-- hidden",
    "two\nlines \x1b[31m \u202eback \ud800 \x00",
]
SCORES = [[0.2 + 0.02 * i] for i in range(30)]


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture
def nasty_dir(tmp_path: Path) -> Path:
    """A run in which everything that anyone could have written is hostile."""
    run = make_run()
    run.baseline = make_evaluation(SCORES, texts=NASTY)
    run.pruned = make_evaluation([[0.5 * row[0]] for row in SCORES], texts=NASTY[::-1])
    for evaluation in (run.baseline, run.pruned, *run.controls):
        assert evaluation.toxicity is not None
        for row, text in zip(evaluation.toxicity.prompts, NASTY, strict=False):
            object.__setattr__(row, "text", text)
    run.base_model["id"] = NASTY[0]
    directory = write_run(run, tmp_path / "nasty")
    (directory / "config.yaml").write_text(f"model: {NASTY[0]}\n", encoding="utf-8")
    write_json(directory / "provenance.json", {"command": ["sparc3", NASTY[1]], "versions": {"torch": "2"}})
    return directory


def read(directory: Path, num_prompts: int = 30) -> str:
    """The page without its figures, which take most of the time."""
    return page.render_page(read_run(directory), [], num_prompts)


def test_hostile_text_stays_text(nasty_dir: Path, run_dir: Path) -> None:
    html = read(nasty_dir)
    hostile, harmless = Page(html), Page(read(run_dir))
    kinds = {tag for tag, _ in harmless.tags}
    assert "script" not in kinds
    # Config and provenance are there in the hostile run alone.
    assert {tag for tag, _ in hostile.tags} <= kinds | {"details", "summary", "pre"}
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    for text in NASTY[:4]:
        assert hostile.text.count(text) >= 3, text
    assert html.count("</html>") == 1


def test_what_works_unseen_is_spelled_out(nasty_dir: Path) -> None:
    html = read(nasty_dir)
    assert "two\nlines \\u001b[31m \\u202eback \\ud800 \\u0000" in Page(html).text
    assert all(sign.isprintable() or sign == "\n" for sign in html)
    assert visible("na\u00efve \U0001f600\n") == "na\u00efve \U0001f600\n"


def test_nothing_is_fetched(nasty_dir: Path) -> None:
    html = write_report(nasty_dir, 30).read_text(encoding="utf-8")
    addresses = [
        value or "" for _, attributes in Page(html).tags for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]  # fmt: skip
    assert len(addresses) == 8, "seven figures and the icon"
    assert all(address.startswith("data:") for address in addresses)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert not re.search(r"url\(|@import|https?:", style)
    policy = next(attributes["content"] for tag, attributes in Page(html).tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_everything_is_on_it(run_dir: Path) -> None:
    text = " ".join(Page(read(run_dir)).text.split())
    for said in (
        "2 neurons removed from made-up/model",
        "Removing these 2 neurons lowered toxicity significantly, and more than random neurons",
        "toxicity, mean 0.490 0.245 -50.0%",
        "Second opinion: Wilcoxon's signed-rank test agrees",
        "How firm it is 95%, BCa Wilcoxon p standardised rank-biserial",
        "toxic behaviour 5 20.00",
        "All 4 score sets are finite",
        "The first completion of 30 of 30 prompts",
        "relevance: sign abs",
        "selection: num neurons 2",
    ):
        assert said in text, said


def test_a_long_name_of_a_column_can_be_broken_and_stays_text() -> None:
    shown = str(page._breakable("<b>.q_proj 0.5"))
    assert shown == "&lt;b&gt;.<wbr>q_proj 0.5"


def test_failed_checks_are_on_it(tmp_path: Path) -> None:
    run = make_run()
    run.expected_modules.append("model.layers.4.mlp.up_proj")
    text = Page(read(write_run(run, tmp_path / "run"))).text
    assert "CHECK FAILED: toxic: layers without scores: model.layers.4.mlp.up_proj" in text


def test_every_text_is_veiled(run_dir: Path) -> None:
    tags = Page(read(run_dir, 7)).tags
    assert sum("veiled" in (attributes.get("class") or "").split() for _, attributes in tags) == 3 * 7 + 2, (
        "prompts with two completions, words that changed"
    )
    assert sum(tag == "article" for tag, _ in tags) == 8


def test_an_empty_completion_says_so(tmp_path: Path) -> None:
    run = make_run()
    run.pruned = make_evaluation([[0.5 * row[0]] for row in SCORES], texts=[" \n"])
    assert Page(read(write_run(run, tmp_path / "run"))).text.count("(empty)") == 1


def test_without_toxicity_there_are_no_completions(tmp_path: Path) -> None:
    run = make_run()
    run.controls = []
    for evaluation in (run.baseline, run.pruned):
        object.__setattr__(evaluation, "toxicity", None)
    shown = Page(read(write_run(run, tmp_path / "run")))
    assert "Completions" not in shown.text
    assert "no behaviour was measured" in shown.text


def test_prompts_are_spaced_evenly() -> None:
    assert list(spaced(10, 3)) == [0, 3, 6]
    assert list(spaced(2, 5)) == [0, 1]


def test_the_command_says_where_the_page_is(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(run_dir), "--num_prompts", "2"])
    assert capsys.readouterr().out == f"report: {run_dir / 'report.html'}\n"
    assert (run_dir / "report.html").read_text().count("<article>") == 3
    assert commands.NUM_PROMPTS == page.NUM_PROMPTS
