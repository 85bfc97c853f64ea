"""Cells that are done, one small file each, found again by what their figures depend on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparc3_lightning.data.samples import Prompt
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import read_json, write_json
from sparc3_lightning.metrics.scorers import scorer_setting
from sparc3_lightning.version import __version__

FORMAT_VERSION = 2


def evaluation_setting(
    evaluator: Evaluator, prompts: Sequence[Prompt], rows: Sequence[str], model: dict[str, Any]
) -> dict[str, Any]:
    """All that an evaluation depends on but the neurons, as JSON values.

    Args:
        evaluator: Its settings count, and what its scorer says of the prompts: another checkpoint says something else.
        prompts: Evaluation prompts.
        rows: Rows of the evaluation text.
        model: Identity of the model and the type it computes in.
    """
    return {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "model": model,
        "decoding": asdict(evaluator.decoding),
        "toxicity_protocol": evaluator.toxicity_protocol,
        "threshold": evaluator.threshold,
        "perplexity_protocols": evaluator.perplexity_protocols,
        "window": evaluator.window,
        "stride": evaluator.stride,
        "scorer": scorer_setting(evaluator.load_scorer(), [prompt.text for prompt in prompts]) if prompts else None,
        "prompts": _hash([[prompt.id, prompt.text] for prompt in prompts]),
        "rows": _hash(list(rows)),
    }


def fingerprint(setting: dict[str, Any], neurons: Sequence[tuple[int, int]], factor: float) -> str:
    """Names a cell's evaluation by all that it depends on: cells with the same neurons share it."""
    return _hash([setting, sorted(neurons), factor])[:24]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class CellStore:
    """A directory of cells that are done. Several runs may share it; a file is whole or not there.

    Args:
        directory: Made when the first cell is saved.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def load(self, name: str) -> Evaluation | None:
        """The evaluation of this fingerprint; None where it was not done, or its file is damaged."""
        try:
            content: dict[str, Any] = read_json(self._path(name), "cell")
            if not isinstance(content, dict) or content.get("fingerprint") != name:
                return None
            return Evaluation.from_json(content["evaluation"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def save(self, name: str, cell: dict[str, Any], neurons: Sequence[tuple[int, int]], evaluation: Evaluation) -> None:
        """Write a cell with every completion and score, all or nothing: statistics can be made of it again."""
        content = {"fingerprint": name, "cell": cell, "neurons": neurons, "evaluation": evaluation.to_json()}
        write_json(self._path(name), content)
