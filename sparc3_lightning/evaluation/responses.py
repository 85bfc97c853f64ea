"""What the base model's responses score, to choose prompts by: generated once, kept chunk by chunk, found again.

    responses.json      what the scores depend on (`made_by`), and the score of each prompt's response (`scores`)

A choice follows from data and scores. So the run that goes on, and `test` of the same model, choose the same prompts.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sparc3_lightning.data.samples import Prompt, fingerprint
from sparc3_lightning.distributed.ranks import check_same_on_every_rank, from_rank_zero
from sparc3_lightning.files import read_json, write_json
from sparc3_lightning.metrics.scorers import Scorer, attribute_scores, scorer_setting
from sparc3_lightning.pruning.recipe import COMPRESSION_FILE, RECIPE_FILE, WEIGHT_RECIPE_FILE

FORMAT_VERSION = 1
RESPONSES_FILE = "responses.json"
TEXTS_FILE = "text_scores_{}.json"
PROBES = (
    "You are a stupid idiot and everybody hates you.",
    "The weather was fine, and they walked along the river.",
    "I will find you and hurt you.",
)
"""What a scorer says of these tells it from another: see `scorer_setting`."""


class ResponseStore:
    """Scores of responses in a run's directory; what other runs of the same model have generated is taken over.

    Args:
        path: The run's file.
        made_by: What the scores depend on but the prompts, as JSON: files that say something else do not count.
        others: Files of other runs.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any], others: Iterable[Path] = ()) -> None:
        self.path, self.others = path, list(others)
        self.made_by = {"format_version": FORMAT_VERSION, **made_by}

    @cached_property
    def _kept(self) -> dict[str, float]:
        return self._read(self.path)

    @cached_property
    def _known(self) -> dict[str, float]:
        return {name: score for other in self.others for name, score in self._read(other).items()} | self._kept

    def find(self, names: Iterable[str]) -> dict[str, float]:
        """Scores of those of the responses that are known; on rank 0, the only one that reads and writes."""
        return {name: self._known[name] for name in names if name in self._known}

    def keep(self, scores: Mapping[str, float]) -> None:
        """Add scores, and replace the file by one that holds them; on rank 0."""
        self._known.update(scores)
        if not scores.items() <= self._kept.items():
            self._kept.update(scores)
            write_json(self.path, {"made_by": self.made_by, "scores": self._kept})

    def _read(self, path: Path) -> dict[str, float]:
        """Scores of a file; none where it is missing, damaged, or made by something else."""
        try:
            content = read_json(path, "scores of responses")
            return dict(content["scores"]) if content["made_by"] == self.made_by else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def score_once(
    prompts: Sequence[Prompt], store: ResponseStore, score: Callable[[list[Prompt]], list[float]]
) -> list[float]:
    """Scores of the prompts' responses: those that are known, and the others, which are kept. Every rank must call.

    Args:
        prompts: The same on every rank.
        store: Where scores are known and kept.
        score: Generates and scores responses, on all ranks together.

    Returns:
        A score a prompt, the same on every rank.
    """
    names = [response_name(prompt) for prompt in prompts]
    check_same_on_every_rank(fingerprint("\n".join(names)), "the prompts to choose from (their hash)")
    known = from_rank_zero(lambda: store.find(names))
    missing = [prompt for name, prompt in zip(names, prompts, strict=True) if name not in known]
    if missing:
        known |= dict(zip(map(response_name, missing), score(missing), strict=True))
    from_rank_zero(lambda: store.keep(known))
    return [known[name] for name in names]


class TextScores:
    """Scores of texts in a run's directory, a file a scorer; what a scorer says of the probes is asked once.

    Args:
        directory: The run's.
        beside: Gives other runs' files of a name.
    """

    def __init__(self, directory: Path, beside: Callable[[str], Iterable[Path]]) -> None:
        self.directory, self.beside = directory, beside
        self._stores: dict[tuple[int, str | None], tuple[Scorer, ResponseStore]] = {}

    def store_of(self, scorer: Scorer, attribute: str | None = None) -> ResponseStore:
        """Where a scorer's scores by an attribute (None: its main one) are known and kept."""
        key = id(scorer), attribute
        if key not in self._stores:
            named = {} if attribute is None else {"attribute": attribute}
            made_by = {"scorer": scorer_setting(scorer, PROBES), **named}
            path = self.directory / TEXTS_FILE.format(fingerprint(str(made_by)))
            # Two sets may have a scorer each that are alike: two stores would overwrite each other's file.
            alike = {store.path: store for _, store in self._stores.values()}
            store = alike.get(path) or ResponseStore(path, made_by, self.beside(path.name))
            self._stores[key] = scorer, store  # the scorer too: its id is its own as long as it lives
        return self._stores[key][1]


def score_texts_once(
    texts: Sequence[str], store: ResponseStore, scorer: Scorer, attribute: str | None = None
) -> list[float]:
    """Scores of texts by a scorer's attribute (None: its main one): those known, and the others, which are kept."""
    names = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    known = store.find(names)
    missing = {name: text for name, text in zip(names, texts, strict=True) if name not in known}
    if missing:
        scores = attribute_scores(scorer, [*missing.values()], attribute)
        known |= dict(zip(missing, scores, strict=True))
        store.keep(known)
    return [known[name] for name in names]


def response_name(prompt: Prompt) -> str:
    """Name of a prompt's response: its id keys the noise, its text is continued."""
    return f"{prompt.id} {hashlib.sha256(prompt.text.encode()).hexdigest()[:16]}"


def named_base(model: str | None) -> str | None:
    """Hash of the base model's weights that a pruned or a compressed directory names; None where it names none.

    Raises:
        ValueError: Its file cannot be read.
    """
    for name in (RECIPE_FILE, WEIGHT_RECIPE_FILE, COMPRESSION_FILE):
        if model is not None and (path := Path(model) / name).is_file():
            found = read_json(path).get("base_model", {}).get("weight_hash")
            return None if found is None else str(found)
    return None
