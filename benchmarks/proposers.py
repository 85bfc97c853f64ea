"""Who names candidates in benchmarks/real_model.py: every method, by the words, and the published rule."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from sparc3_lightning.scoring.combine import MethodScores, Penalty
from sparc3_lightning.scoring.plain import score_baselines
from sparc3_lightning.scoring.score_set import ScoreSet


@dataclass(frozen=True)
class Proposer:
    """Who names candidates.

    Attributes:
        key: Of the method's scores.
        general: Sets that the words are contrasted with; none for no contrast.
        penalty: See `differential`.
        weight: Of general relevance.
    """

    key: str
    general: tuple[str, ...] = ("ordinary",)
    penalty: Penalty = "abs"
    weight: float = 1.0

    def contrast(self, scores: Path) -> ScoreSet:
        """Its ranking of all neurons, lowest first.

        Args:
            scores: Where a run has written scores.
        """
        home = scores / self.key if (scores / self.key).exists() else scores  # the run's own method
        if (home / "manifest.json").exists():  # one ranking, not a set's scores
            return ScoreSet.load(home)
        found = MethodScores({name: ScoreSet.load(home / name) for name in (*self.general, "toxic")})
        if self.general:
            return found.contrast(self.general, "toxic", self.weight, self.penalty)
        alone = found.sets["toxic"]
        return ScoreSet({name: -alone.scores[name] for name in alone.shapes}, alone.manifest)


OURS, GRADIENT = "words, signed LRP", "words, signed gradient"
BOTH, AUROC, DOCUMENT = f"{OURS} and gradient", "words, AUROC", "published rule (document)"
PROPOSERS = {
    OURS: Proposer("lrp_signed"),
    GRADIENT: Proposer("gradient_signed"),
    "same, unsigned": Proposer("lrp", penalty="raw"),
    "same, against C4": Proposer("lrp_signed", ("c4",)),
    "same, no contrast": Proposer("lrp_signed", ()),
    "same, general weight 8": Proposer("lrp_signed", weight=8.0),
    "words, activation": Proposer("activation", penalty="raw"),
    AUROC: Proposer("auroc"),
    "value vectors": Proposer("value_vectors"),
    "random": Proposer("random"),
}
PUBLISHED = {
    DOCUMENT: Proposer("lrp", ("c4",), "raw"),
    "published rule (paper's sign)": Proposer("lrp_signed", ("c4",), "raw"),
}

ONE_PART = {
    "same, target the likeliest token": ("argmax", Proposer("lrp_signed")),
    "same, logit explained": ("logit", Proposer("lrp_signed")),
    "same, against ordinary words of any length": ("lengths", Proposer("lrp_signed", ("any_length",))),
    "same, against C4 of the words' lengths": ("lengths", Proposer("lrp_signed", ("c4",))),
}
"""Ours with one part changed, and the run of `real_model_inputs.attributed` that has its scores."""


def words_by_auroc(model: str, run: Path) -> ScoreSet:
    """AUROC's ranking, words against ordinary words of their length: longer samples have higher maxima for that alone.

    Args:
        model: A Hugging Face directory.
        run: Of the words; the ranking is kept there.
    """
    home = run / "auroc"
    if not home.exists():
        samples = json.loads((run / "samples.json").read_text(encoding="utf-8"))
        sets = {name: [torch.tensor(ids) for ids, _ in samples[name]] for name in ("ordinary", "toxic")}
        lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        found = score_baselines(lm, sets, ["auroc"], general=["ordinary"], behaviour="toxic")["auroc"].ranking
        assert found is not None
        found.save(home)
    return ScoreSet.load(home)
