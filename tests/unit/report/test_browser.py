"""The page in a real browser: no error, no request, no script, and usable when narrow."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.report.page import write_report
from tests.launch import PATIENCE
from tests.unit.evaluation.fake_run import make_behaviours_run, make_evaluation, make_run, make_weight_run
from tests.unit.report.conftest import write_behaviours_dir, write_run
from tests.unit.report.keyboard import keyboard
from tests.unit.report.trial_runs import write_circuit_dir, write_compression_dir, write_sweep_dir

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

NASTY = "<script>parent.document.title = 'hacked'</script><img src='/hacked.png'>"
# The page runs no script, so another one looks at it, in frames as wide as a telephone and as a screen.
PROBE = """<!doctype html><meta charset="utf-8"><title>quiet</title>
<iframe src="PAGE" width="400" height="800"></iframe><iframe src="PAGE" width="1400" height="800"></iframe>
<pre id="seen"></pre><script>
// As WCAG 2 defines it: of the lighter to the darker colour's luminance.
const contrast = (...colours) => {
  const [dark, light] = colours.map(colour => colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0)).sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};
// What lies behind a word: its own colour, or that of the first element around it that has one.
const behind = (element, look) => {
  const colour = look.getComputedStyle(element).backgroundColor;
  return /, 0\\)$/.test(colour) && element.parentElement ? behind(element.parentElement, look) : colour;
};
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, look = frame.contentWindow;
    page.querySelectorAll("details").forEach(folded => { folded.open = true; });
    const tables = [...page.querySelectorAll("table")].map(table => {
      const box = table.closest(".scroll");
      box.focus();
      return box === page.activeElement && box.tabIndex === 0 && look.getComputedStyle(box).overflowX === "auto";
    });
    const words = [...page.querySelectorAll("p, li, th, td, dt, dd, summary, figcaption, label, pre, a, h1, h2, h3")];
    const legible = words.map(word => contrast(look.getComputedStyle(word).color, behind(word, look)));
    const common = {
      overflow: page.documentElement.scrollWidth - frame.clientWidth,
      images: [...page.images].map(image => image.naturalWidth > 0 && image.alt !== ""),
      tables: tables, contrast: Math.min(...legible), is_dark: look.matchMedia("(prefers-color-scheme: dark)").matches,
    };
    if (!page.querySelector("article")) return common;
    const veils = () => [...page.querySelectorAll("article")].map(
      a => look.getComputedStyle(a.querySelector(".text")).filter !== "none");
    const first = page.querySelector("article"), box = first.getBoundingClientRect();
    first.scrollIntoView();
    const middle = first.getBoundingClientRect();
    const veiled = veils();
    page.elementFromPoint(middle.x + middle.width / 2, middle.y + middle.height / 2).click();
    return {
      ...common, veiled: veiled, clicked: veils(), text: first.querySelector(".text").textContent,
    };
  });
  document.getElementById("seen").textContent = JSON.stringify({title: document.title, seen: seen});
});
</script>"""


class Recorder(http.server.SimpleHTTPRequestHandler):
    """Serves a directory and remembers what was asked for."""

    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        self.asked.append(self.path)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = functools.partial(type("Handler", (Recorder,), {"asked": asked}), directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def chromium(profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    quiet = [f"--disable-{what}" for what in ("gpu", "quic", "background-networking", "component-update", "sync")]
    return subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *quiet, f"--user-data-dir={profile}", *options],
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip


def browse(address: str, profile: Path, *options: str) -> tuple[dict[str, Any], list[str], set[str]]:
    """What the probe saw, what the console said, and every address that a page asked for, answered or not."""
    log = profile / "net.json"
    done = chromium(
        profile, f"--log-net-log={log}", "--enable-logging=stderr", "--virtual-time-budget=4000",
        "--window-size=1500,1800", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--dump-dom",
        *options, f"{address}/probe.html",
    )  # fmt: skip
    seen = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert seen, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # The browser has errands of its own; what pages ask for has a page as its initiator.
    lines = [line for line in log.read_text(errors="replace").splitlines() if f'"initiator":"{address}' in line]
    asked = {found[1] for line in lines if (found := re.search(r'"url":"([^"]*)"', line))}
    return json.loads(unescape(seen[1])), console, asked


def test_the_page_is_quiet_and_usable(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    address, asked = served
    run, scores = make_run(), [[0.2 + 0.02 * i] for i in range(30)]
    run.baseline = make_evaluation(scores, texts=[NASTY] * 30)
    run.base_model["id"] = "../a/very/long/path/to/a/model/" + "x" * 80
    directory = write_run(run, tmp_path / "run")
    (directory / "config.yaml").write_text("key: " + "long " * 100 + "y" * 300)
    write_report(directory, 3)
    (tmp_path / "probe.html").write_text(PROBE.replace("PAGE", "run/report.html"))
    found, console, requests = browse(address, tmp_path / "profile")
    assert found["title"] == "quiet", "a completion ran as a script"
    for page in found["seen"]:
        assert page["overflow"] <= 0
        assert page["images"] == [True] * 7
        assert (page["veiled"], page["clicked"]) == ([True] * 4, [False, True, True, True])
        assert page["text"] == NASTY
    assert console == []
    assert sorted(set(asked) - {"/favicon.ico"}) == ["/probe.html", "/run/report.html"]
    assert requests <= {f"{address}/run/report.html", f"{address}/favicon.ico"}


@pytest.mark.parametrize("name", ["run", "alone"])
def test_experiments_are_quiet_and_usable(name: str, tmp_path: Path, served: tuple[str, list[str]]) -> None:
    address, asked = served
    directory = write_run(make_run(), tmp_path / name) if name == "run" else tmp_path / name
    write_sweep_dir(directory / "sweep")
    write_compression_dir(directory / "compression")
    write_report(directory, 3)
    (tmp_path / "probe.html").write_text(PROBE.replace("PAGE", f"{name}/report.html"))
    found, console, requests = browse(address, tmp_path / "profile")
    for page in found["seen"]:
        assert page["overflow"] <= 0
        assert page["images"] == [True] * (11 if name == "run" else 4)
        assert page["tables"] == [True] * (8 if name == "run" else 5)
        assert page["contrast"] >= 4.5
    assert (console, sorted(set(asked) - {"/favicon.ico"})) == ([], sorted([f"/{name}/report.html", "/probe.html"]))
    assert requests <= {f"{address}/{name}/report.html", f"{address}/favicon.ico"}


def test_behaviours_alone_are_quiet_and_usable(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    address, _ = served
    write_report(write_behaviours_dir(tmp_path / "run"))
    (tmp_path / "probe.html").write_text(PROBE.replace("PAGE", "run/report.html"))
    found, console, requests = browse(address, tmp_path / "profile")
    for page in found["seen"]:
        assert page["overflow"] <= 0
        assert (page["images"], page["tables"]) == ([True] * 2, [True])
        assert page["contrast"] >= 4.5
    assert console == []
    assert requests <= {f"{address}/run/report.html", f"{address}/favicon.ico"}


FOCUS = "[...document.querySelectorAll('.scroll, input, summary, a[href]')].indexOf(document.activeElement)"
NUM_STOPS = (
    "[...document.querySelectorAll('.scroll, input, summary, a[href]')].filter(one => one.checkVisibility()).length"
)
VEILS = "[...document.querySelectorAll('article .text')].map(one => getComputedStyle(one).filter !== 'none')"


def test_a_keyboard_reaches_everything_and_lifts_the_veils(tmp_path: Path) -> None:
    """Twice through the page: the second time Space shows one article, then all."""
    assert CHROMIUM is not None
    page = write_report(write_run(make_run(), tmp_path / "run"), 3)
    with keyboard(CHROMIUM, tmp_path / "profile") as keys:
        keys.open(page.as_uri())
        stops = [keys.ask(FOCUS) for _ in range(keys.ask(NUM_STOPS)) if keys.press("Tab") is None]
        assert stops == list(range(len(stops)))
        keys.press(" ")
        assert keys.ask(VEILS) == [True] * 6 + [False] * 2, "the last article's two texts"
        keys.ask("document.getElementById('show_all').focus()")
        keys.press(" ")
        assert keys.ask(VEILS) == [False] * 8


def test_a_keyboard_scrolls_a_wide_table(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    page = write_report(write_run(make_run(), tmp_path / "run"), 3)
    with keyboard(CHROMIUM, tmp_path / "profile") as keys:
        keys.open(page.as_uri())
        keys.press("Tab")
        keys.press("ArrowRight")
        scrolled = "new Promise(done => setTimeout(() => done(document.activeElement.scrollLeft), 500))"
        assert keys.ask(scrolled) > 0


WRITERS: dict[str, Callable[[Path], object]] = {
    "circuit": lambda directory: write_circuit_dir(directory / "circuit"),
    "behaviours": lambda directory: write_run(make_behaviours_run(), directory),
    "weights": lambda directory: write_run(make_weight_run(), directory),
}


@pytest.mark.parametrize(("name", "images", "tables"), [("circuit", 2, 26), ("behaviours", 9, 5), ("weights", 6, 4)])
def test_each_kind_of_page_is_quiet_and_usable(
    name: str, images: int, tables: int, tmp_path: Path, served: tuple[str, list[str]]
) -> None:
    address, asked = served
    WRITERS[name](tmp_path / name)
    write_report(tmp_path / name, 3)
    (tmp_path / "probe.html").write_text(PROBE.replace("PAGE", f"{name}/report.html"))
    found, console, requests = browse(address, tmp_path / "profile")
    for page in found["seen"]:
        assert page["overflow"] <= 0
        assert page["images"] == [True] * images
        assert page["tables"] == [True] * tables
        assert page["contrast"] >= 4.5
    assert (console, sorted(set(asked) - {"/favicon.ico"})) == ([], sorted([f"/{name}/report.html", "/probe.html"]))
    assert requests <= {f"{address}/{name}/report.html", f"{address}/favicon.ico"}


@pytest.mark.parametrize("name", WRITERS)
def test_words_are_legible_in_the_dark(name: str, tmp_path: Path, served: tuple[str, list[str]]) -> None:
    WRITERS[name](tmp_path / name)
    write_report(tmp_path / name, 3)
    (tmp_path / "probe.html").write_text(PROBE.replace("PAGE", f"{name}/report.html"))
    found, _, _ = browse(served[0], tmp_path / "profile", "--blink-settings=preferredColorScheme=0")
    for page in found["seen"]:
        assert page["is_dark"]
        assert page["contrast"] >= 4.5


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_cut_on_paper(name: str, tmp_path: Path, served: tuple[str, list[str]]) -> None:
    """As it is printed, on A4 between a browser's own margins: 717 pixels."""
    address, _ = served
    WRITERS[name](tmp_path / name)
    page = write_report(tmp_path / name, 3).read_text(encoding="utf-8")
    assert page.count("@media print") == 1
    (tmp_path / "printed.html").write_text(page.replace("@media print", "@media all"), encoding="utf-8")
    (tmp_path / "probe.html").write_text(PROBE.replace("PAGE", "printed.html").replace('width="400"', 'width="717"'))
    found, _, _ = browse(address, tmp_path / "profile")
    assert found["seen"][0]["overflow"] <= 0


def test_the_page_prints(tmp_path: Path) -> None:
    write_circuit_dir(tmp_path / "run" / "circuit")
    page = write_report(tmp_path / "run", 3)
    chromium(tmp_path / "profile", f"--print-to-pdf={tmp_path / 'page.pdf'}", page.as_uri())
    assert len(re.findall(rb"/Type /Page\b", (tmp_path / "page.pdf").read_bytes())) > 1


def test_the_probe_can_see_what_it_looks_for(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    address, asked = served
    faint = "<p style='color: #aaa'>faint<div class='scroll'><table><tr><td>" + "x" * 900 + "</table></div>"
    (tmp_path / "bad.html").write_text(
        f"{NASTY}<script>console.error('heard')</script><img src='http://localhost:9/x'>{faint}"
    )
    (tmp_path / "probe.html").write_text(PROBE.replace("PAGE", "bad.html"))
    found, console, requests = browse(address, tmp_path / "profile")
    assert found["title"] == "hacked"
    for page in found["seen"]:
        assert page["contrast"] < 4.5
        assert (page["tables"], page["images"]) == ([False], [False, False])
    assert found["seen"][0]["overflow"] > 0
    assert any("heard" in line for line in console)
    assert "/hacked.png" in asked
    assert "http://localhost:9/x" in requests
