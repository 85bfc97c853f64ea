"""The habits of the house: one version, every package shipped, small ASCII files, nothing private."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import sparc3_lightning.version

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sparc3_lightning", "callbacks")
MAX_LINES, MAX_FUNCTION_LINES = 500, 60
CODE = {".py", ".pyi", ".sh", ".yaml", ".yml", ".sbatch", ".toml"}
# Written so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.$})~-])/(?:work|root|home)/\w")


def git(*args: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)


def project_files() -> list[Path]:
    """Return every file that is, or is about to be, part of the project: tracked, or neither tracked nor ignored."""
    listing = git("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    assert listing.returncode == 0, listing.stderr
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def is_code(path: Path) -> bool:
    return path.suffix in CODE or path.name == "Makefile" or path.parent.name == ".ci"


def code_files() -> list[Path]:
    files = [path for path in project_files() if is_code(path)]
    assert len(files) > 10, "the listing found hardly any file, so this test would prove nothing"
    return files


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_version_stands_in_one_place() -> None:
    version = sparc3_lightning.version.__version__
    assert importlib.metadata.version("sparc3-lightning") == version, "run `make venv` after changing the version"
    pattern = re.compile(r"""^\s*(?:__version__|version)\s*=\s*["']""", re.MULTILINE)
    sources = [path for path in code_files() if path.suffix in {".py", ".toml"}]
    where = [relative(path) for path in sources if pattern.search(path.read_text())]
    assert where == ["sparc3_lightning/version.py"]


def test_every_package_is_listed_in_pyproject() -> None:
    block = re.search(r"^packages = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    listed = re.findall(r'"([\w.]+)"', block[1])
    found = [
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(found)
    assert set(PACKAGES) <= set(listed)


def test_every_module_lies_in_a_package() -> None:
    orphans = [
        relative(path)
        for path in code_files()
        if path.suffix == ".py"
        and path.relative_to(ROOT).parts[0] in PACKAGES
        and not (path.parent / "__init__.py").is_file()
    ]
    assert orphans == []


def test_files_are_small() -> None:
    long = {relative(path): n for path in code_files() if (n := len(path.read_text().splitlines())) > MAX_LINES}
    assert long == {}


def test_no_two_modules_have_one_name() -> None:
    """Inside the package; a callback may bear the name of the room it glues."""
    names = Counter(path.name for path in (ROOT / "sparc3_lightning").rglob("*.py"))
    assert {name for name, n in names.items() if n > 1} <= {"__init__.py", "__main__.py"}


def test_functions_are_small() -> None:
    long = {
        f"{relative(path)}:{node.name}": n
        for path in code_files()
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (n := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_code_is_ascii() -> None:
    assert [relative(path) for path in code_files() if not path.read_bytes().isascii()] == []


def opens_in_the_locale(code: str) -> list[int]:
    """Lines of calls that read or write text without an encoding: in another locale it would be another."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        is_method = isinstance(node.func, ast.Attribute)
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if (
            (name == "read_text" and is_method and not node.args)
            or (name == "write_text" and is_method and len(node.args) < 2)
            or (name == "open" and (not is_method or not node.args or modes) and "b" not in "".join(map(str, modes)))
        ):
            found.append(node.lineno)
    return found


def test_text_is_utf8_whatever_the_locale() -> None:
    assert opens_in_the_locale("open(x)\nopen(x, 'w')\nx.open('a')\nx.open()\nx.read_text()\nx.write_text(y)") == [
        *range(1, 7)
    ]
    assert opens_in_the_locale("open(x, 'rb')\nx.read_text('utf-8')\nos.open(x, y)\nwrite_text(x, y)") == []
    places = {"sparc3_lightning", "callbacks", "benchmarks", "docs", "slurm"}
    files = [path for path in code_files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in places]
    assert [f"{relative(path)}:{line}" for path in files for line in opens_in_the_locale(path.read_text("utf-8"))] == []


def test_what_names_no_encoding_is_utf8_too(tmp_path: Path) -> None:
    """As jsonargparse reads a config, and Lightning writes one, in a locale that knows ASCII alone."""
    (tmp_path / "run.yaml").write_text("target: \u00dcber", encoding="utf-8")
    code = "import sys; from sparc3_lightning.main import main; main(['--version']); text = open(sys.argv[1]).read(); "
    code += "open(sys.argv[1], 'w').write(text * 2); print(text)"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "run.yaml")]
    shown = subprocess.run(command, env={**os.environ, **plain}, capture_output=True, check=False)
    assert shown.returncode == 0, shown.stderr.decode()
    assert (tmp_path / "run.yaml").read_text("utf-8") == "target: \u00dcber" * 2
    assert shown.stdout.splitlines()[-1] == b"target: \\xdcber", "a terminal without the letter still shows the line"


# What only families/ may know: layers' classes, what configs call their sizes, and where the parts lie.
ARCHITECTURE = re.compile(
    r"nn\.Linear|Conv1D|intermediate_size|hidden_size|num_hidden_layers|ffn_dim|\bn_(inner|embd|layer)\b"
    r"|num_attention_heads|num_key_value_heads|\bhead_dim\b|layer_types"
    r"|model\.layers|transformer\.h\b|decoder\.layers|self_attn|\bmlp\b"
    r"|\b(up|gate|down|[qkvo]|out)_proj|\bfc[12]\b|\bc_(fc|proj|attn)\b"
)
NO_FAMILY = {
    "sparc3_lightning/models/family.py": "the table itself, whose defaults are what LLaMA's clones share",
}


def names_an_architecture(code: str) -> list[str]:
    """What is said of an architecture, outside comments and docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_docstring(part)]  # type: ignore[attr-defined]
    return [match[0] for match in ARCHITECTURE.finditer(ast.unparse(tree))]


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_only_families_know_an_architecture() -> None:
    assert names_an_architecture("isinstance(x, nn.Linear)  # up_proj\nconfig.n_layer\nf'{x}.mlp.{y}'") == [
        "nn.Linear",
        "n_layer",
        "mlp",
    ]
    files = [path for path in code_files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES]
    others = [path for path in files if "families" not in path.relative_to(ROOT).parts]
    found = {relative(path): names for path in others if (names := names_an_architecture(path.read_text("utf-8")))}
    assert {path: names for path, names in found.items() if path not in NO_FAMILY} == {}
    assert set(NO_FAMILY) <= set(found), "an exception that is none any more"


# The way that data takes: a later room may call an earlier one, and none a later.
ROOMS = [
    "models",
    "lrp",
    "metrics",
    "data",
    "scoring",
    "pruning",
    "statistics",
    "evaluation",
    "trials",
    "runs",
    "report",
    "plan",
    "demo",
]


def test_no_room_calls_a_later_one() -> None:
    found = {
        (relative(path), room)
        for path in code_files()
        if path.suffix == ".py" and (mine := path.relative_to(ROOT).parts[1]) in ROOMS
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparc3_lightning.")
        if (room := str(node.module).split(".")[1]) in ROOMS and ROOMS.index(room) > ROOMS.index(mine)
    }
    assert found == set()


def test_no_path_of_one_machine() -> None:
    texts = [path for path in project_files() if is_code(path) or path.suffix in {".md", ".txt"}]
    assert [relative(path) for path in texts if MACHINE_PATH.search(path.read_text(errors="replace"))] == []


@pytest.mark.parametrize("name", ["logs/suppress/version_0/config.yaml", "logs/events.out", ".venv"])
def test_outputs_are_ignored(name: str) -> None:
    assert git("check-ignore", "--quiet", "--no-index", name).returncode == 0


@pytest.mark.parametrize("name", ["logs/.gitkeep", "configs/tiny/suppress.yaml", "tests/unit/data/test_c4.py"])
def test_sources_are_not_ignored(name: str) -> None:
    assert git("check-ignore", "--quiet", "--no-index", name).returncode == 1


def test_logs_hold_nothing_but_gitkeep() -> None:
    assert [relative(path) for path in project_files() if relative(path).startswith("logs/")] == ["logs/.gitkeep"]


def test_licence_is_the_whole_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) > 190
