"""Every kind of page in a real browser: no error, no request, legible, and usable when narrow or with keys alone."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from sparc3_lightning.files import write_json
from sparc3_lightning.report.page import write_report
from tests.unit.evaluation.fake_run import make_behaviours_run, make_evaluation, make_run, make_weight_run
from tests.unit.report.browser import PAPER, Browser, started
from tests.unit.report.conftest import write_behaviours_dir, write_run
from tests.unit.report.trial_runs import write_circuit_dir, write_compression_dir, write_sweep_dir

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

NASTY = "<script>document.title = 'hacked'</script><img src='/hacked.png'>"


def write_suppression(directory: Path) -> None:
    """A run with hostile completions and a name as long as a path."""
    run = make_run()
    run.baseline = make_evaluation([[0.2 + 0.02 * i] for i in range(30)], texts=[NASTY] * 30)
    run.base_model["id"] = "../a/very/long/path/to/a/model/" + "x" * 80
    write_run(run, directory)


def write_all(directory: Path) -> None:
    """A suppression beside every further experiment."""
    write_run(make_run(), directory)
    write_sweep_dir(directory / "sweep")
    write_compression_dir(directory / "compression")
    write_circuit_dir(directory / "circuit")


@dataclass(frozen=True)
class Kind:
    """A kind of page, and how many of each it must show: else a page without any would pass."""

    write: Callable[[Path], object]
    images: int
    tables: int
    articles: int = 0


KINDS = {
    "suppression": Kind(write_suppression, 7, 3, 4),
    "sweep": Kind(lambda directory: write_sweep_dir(directory / "sweep"), 2, 2),
    "compression": Kind(lambda directory: write_compression_dir(directory / "compression"), 2, 3),
    "circuit": Kind(lambda directory: write_circuit_dir(directory / "circuit"), 2, 26),
    "behaviours": Kind(lambda directory: write_run(make_behaviours_run(), directory), 9, 5, 4),
    "unevaluated": Kind(write_behaviours_dir, 2, 1),
    "weights": Kind(lambda directory: write_run(make_weight_run(), directory), 6, 4, 4),
    "all": Kind(write_all, 13, 34, 4),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with started(CHROMIUM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module", params=KINDS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a kind, in a directory called after it; config and provenance have long lines."""
    directory = tmp_path_factory.mktemp("runs") / request.param
    KINDS[request.param].write(directory)
    (directory / "config.yaml").write_text("key: " + "long " * 100 + "y" * 300)
    write_json(directory / "provenance.json", {"command": ["sparc3", "predict", "z" * 200], "versions": {"torch": "2"}})
    return write_report(directory, 3)


def is_quiet(browser: Browser, kind: Kind) -> None:
    assert (browser.console, browser.asked) == ([], [])
    assert browser.ask("probe.images()") == [True] * kind.images


def is_as_wide_as_the_window(browser: Browser, kind: Kind) -> None:
    browser.ask("probe.unfold()")
    assert browser.ask("probe.overflow()") <= 0
    assert browser.ask("probe.tables()") == [True] * kind.tables
    assert all(browser.ask("probe.scrolls()"))


def is_legible(scheme: str, browser: Browser, kind: Kind) -> None:
    browser.show(scheme)
    assert browser.ask("probe.isDark()") == (scheme == "dark")
    assert browser.ask("probe.faint()") == []


def a_click_lifts_one_veil(browser: Browser, kind: Kind) -> None:
    veils = browser.ask("probe.veils()")
    assert len(veils) == kind.articles
    assert all(all(article) for article in veils)
    if veils:
        browser.click(*browser.ask("probe.middle()"))
        assert [any(article) for article in browser.ask("probe.veils()")] == [False] + [True] * (len(veils) - 1)


def works_with_keys(browser: Browser, kind: Kind) -> None:
    """From one stop to the next, in the order of the page; each is used, so that what was folded is visited, too."""
    place = 0
    while place < browser.ask("probe.numStops()"):
        browser.press("Tab")
        stop = browser.ask("probe.stop()")
        assert stop["place"] == place, stop
        assert stop["is_stop"], stop
        assert stop["in_view"], stop
        assert stop["ring"] >= 3, stop
        use(browser, stop["tag"], place, stop["cut"])
        place += 1
    assert place > kind.tables
    browser.press("Tab")
    assert browser.ask("probe.stop()")["place"] in (-1, 0), "the way leads out of the page, or round"


def use(browser: Browser, tag: str, place: int, is_cut: bool) -> None:
    """Do with keys what a link, a veil, a fold or a table too wide is there for."""
    if tag == "A":
        browser.press("Enter")
        assert browser.ask(f"probe.isFollowed({place})"), place
    elif tag == "INPUT":
        for is_lifted in (True, False):
            browser.press(" ")
            assert browser.ask("probe.isUsed()") == is_lifted, place
    elif tag == "SUMMARY" or is_cut:
        browser.press("Enter" if tag == "SUMMARY" else "ArrowRight")
        assert browser.ask("probe.isUsed()"), place


def is_whole_on_paper(browser: Browser, kind: Kind) -> None:
    browser.show("dark", "print")
    browser.resize(*PAPER)
    assert browser.ask("probe.overflow()") <= 0
    assert (browser.ask("probe.cut()"), browser.ask("probe.missing()"), browser.ask("probe.faint()")) == ([], [], [])
    num_pages = len(re.findall(rb"/Type /Page\b", browser.printed()))
    assert num_pages >= browser.ask("probe.reach()") / PAPER[1], "what goes beyond the last page"


CHECKS: dict[str, Callable[[Browser, Kind], None]] = {
    "quiet": is_quiet,
    "wide": is_as_wide_as_the_window,
    "light": partial(is_legible, "light"),
    "dark": partial(is_legible, "dark"),
    "click": a_click_lifts_one_veil,
    "keys": works_with_keys,
    "paper": is_whole_on_paper,
}


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("check", CHECKS)
def test_every_page(check: str, width: int, page: Path, browser: Browser) -> None:
    browser.open(page, width)
    CHECKS[check](browser, KINDS[page.parent.name])


def test_a_completion_stays_text(tmp_path: Path, browser: Browser) -> None:
    write_suppression(tmp_path)
    browser.open(write_report(tmp_path, 3), 400)
    assert browser.ask("document.title").startswith("SparC3 report")
    assert browser.ask("document.querySelector('article .text').textContent") == NASTY


# What is replaced in a page's text, and the check that must see it.
BREAKS = [
    ("quiet", "<main>", "<main><script>1</script>"),
    ("quiet", "<meta http-equiv", "<body><img src='/picture.png' alt='asked for'><meta http-equiv"),
    ("wide", ".scroll {", ".gone {"),
    ("wide", "overflow-wrap: anywhere;", ""),
    ("light", "--soft: #5c5c5c", "--soft: #808080"),
    ("dark", "--soft: #a8a8a8", "--soft: #707070"),
    ("click", "blur(6px)", "none"),
    ("click", "inset: 0;", ""),
    ("keys", 'tabindex="0"', 'tabindex="-1"'),
    ("keys", ' tabindex="0"', ""),
    ("keys", "<summary>", '<summary tabindex="-1">'),
    ("keys", 'type="checkbox"', 'type="checkbox" disabled'),
    ("keys", "outline: 2px", "outline: 0 none; x: 2px"),
    ("keys", 'id="show_all"', 'id="gone"'),
    ("keys", 'id="provenance"', 'id="gone"'),
    ("paper", ".scroll { overflow: visible; }", "table { min-width: 60rem; }"),
    ("paper", "details::details-content", ".gone"),
    ("paper", "--soft: #444", "--soft: #999"),
    ("paper", "0.3rem; white-space: normal;", "0.3rem;"),
    ("paper", "<wbr>", ""),
    ("paper", "body { max-width: none;", "body { position: fixed;"),
]


@pytest.mark.parametrize(("check", "old", "new"), BREAKS)
@pytest.mark.parametrize("page", ["all"], indirect=True)
def test_a_broken_page_is_found(check: str, old: str, new: str, page: Path, browser: Browser) -> None:
    html = page.read_text(encoding="utf-8")
    assert old in html
    broken = page.with_name("broken.html")
    broken.write_text(html.replace(old, new), encoding="utf-8")
    browser.open(broken, 400)
    with pytest.raises(AssertionError):
        CHECKS[check](browser, KINDS["all"])
