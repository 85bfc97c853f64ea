"""A stage is made once, again when an input changed, and never taken for made when it was cut short."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sparc3_lightning.demo.stage import Stage


class Maker:
    """Counts how often a stage was made."""

    def __init__(self, home: Path) -> None:
        (home / "in.txt").write_text("one")
        self.home, self.times = home, 0
        self.console = Console(width=300, file=io.StringIO())

    def stage(self, **changes: Any) -> Stage:
        options = {"inputs": (self.home / "in.txt",), "options": {"size": 1}, **changes}
        return Stage("stage", self.home / "out", **options)

    def make(self) -> dict[str, Any]:
        self.times += 1
        (self.home / "out").mkdir(exist_ok=True)
        (self.home / "out" / f"made{self.times}").write_text("")
        return {"made": str(self.home / "out" / f"made{self.times}"), "figure": self.times}

    def run(self, **changes: Any) -> dict[str, Any]:
        return self.stage(**changes).run(self.make, self.console).outcome

    def said(self) -> str:
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def test_made_once(maker: Maker) -> None:
    made, again = (maker.stage().run(maker.make, maker.console) for _ in range(2))
    assert made.outcome == again.outcome
    assert (made.reused, again.reused) == (False, True)
    assert maker.times == 1
    assert "stage: reused, its inputs are unchanged" in maker.said()


def test_made_again_after_an_input_changed(maker: Maker) -> None:
    maker.run()
    (maker.home / "in.txt").write_text("two")
    assert maker.run()["figure"] == 2
    assert f"again, since these changed: {maker.home / 'in.txt'}" in maker.said()
    assert not (maker.home / "out" / "made1").exists()


def test_a_comment_changes_nothing(maker: Maker) -> None:
    config, code = maker.home / "config.yaml", maker.home / "code.py"
    config.write_text("a: {b: 1}  # why\n")
    code.write_text("x = 1  # why\n")
    inputs = (config, code)
    maker.run(inputs=inputs)
    config.write_text("# another reason\na:\n  b: 1\n")
    code.write_text("# another reason\nx   =   1\n")
    assert maker.run(inputs=inputs)["figure"] == 1
    config.write_text("a: {b: 2}\n")
    assert maker.run(inputs=inputs)["figure"] == 2
    code.write_text("x = 2\n")
    assert maker.run(inputs=inputs)["figure"] == 3


def test_made_again_after_an_option_or_a_version_changed(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.run()
    assert maker.run(options={"size": 2})["figure"] == 2
    monkeypatch.setattr("sparc3_lightning.demo.stage.package_versions", lambda: {"torch": "0"})
    assert maker.run(options={"size": 2})["figure"] == 3
    assert "changed: options\n" in maker.said()
    assert "changed: package versions\n" in maker.said()


def test_what_lasts_is_not_made_again_for_another_version(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.run(lasting=True)
    monkeypatch.setattr("sparc3_lightning.demo.stage.package_versions", lambda: {"torch": "0"})
    assert maker.run(lasting=True)["figure"] == 1
    assert maker.run(lasting=True, options={"size": 2})["figure"] == 2


def test_a_directory_is_an_input_with_all_its_files(maker: Maker) -> None:
    directory = maker.home / "inputs"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "a").write_text("a")
    maker.run(inputs=(directory,))
    (directory / "deep" / "a").write_text("b")
    maker.run(inputs=(directory,))
    assert maker.times == 2


def test_made_again_where_what_was_made_is_gone(maker: Maker) -> None:
    Path(maker.run()["made"]).unlink()
    maker.run()
    assert maker.times == 2


def test_what_was_made_before_is_kept_where_asked(maker: Maker) -> None:
    maker.run(keep=True)
    maker.run(keep=True, options={"size": 2})
    assert sorted(path.name for path in (maker.home / "out").iterdir()) == ["made1", "made2", "stamp.json"]


def test_a_stage_cut_short_is_not_made(maker: Maker) -> None:
    def broken() -> dict[str, Any]:
        maker.make()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maker.stage().run(broken, maker.console)
    maker.run()
    assert maker.times == 2
    assert "reused" not in maker.said()
