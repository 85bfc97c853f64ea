"""README.md and docs/ as their readers see them, and what is typed in them."""

import re
import shlex

from tests.runs import ROOT


def _visible(text: str) -> str:
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


PAGES = {
    path.relative_to(ROOT).as_posix(): _visible(path.read_text("utf-8"))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
ALL = "\n".join(PAGES.values())


def blocks(language: str, page: str | None = None) -> list[str]:
    """The code blocks of a language, of one page or of all."""
    text = ALL if page is None else PAGES[page]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def is_file(block: str) -> bool:
    """Whether a block is a file to save: its first line says under which name."""
    return re.match(r"# [\w.]+\.(py|yaml)\n", block) is not None


def lines(page: str | None = None) -> list[list[str]]:
    """Every command in words, without comments and without the variables set before it."""
    typed = [line for block in blocks("bash", page) for line in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line, comments=True) for line in typed if line.strip()]
    return [words[next(i for i, word in enumerate(words) if "=" not in word) :] for words in split]


def sparc3_words(words: list[str]) -> list[str] | None:
    """What `sparc3` is given, called by its name, by torchrun or by a launcher."""
    for launcher in ("slurm/attribute.sbatch", "slurm/torchrun.sh"):
        if launcher in words:
            given = words[words.index(launcher) + 1 :]
            return ["predict", *(word for word in given if word != "--dry-run")]
    if words[0] == "torchrun":
        return words[words.index("sparc3_lightning") + 1 :]
    return words[1:] if words[0] == "sparc3" else None
