"""Combine ScoreSets: the seeds' mean, the differential, how far the seeds agree; and what one method has found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sparc3_lightning.scoring.lazy import LazyScores, SeedSummary, row_blocks, summaries
from sparc3_lightning.scoring.manifest import FORMAT_VERSION, Manifest
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.version import package_versions

Penalty = Literal["raw", "abs"]
PENALTIES: Mapping[str, Callable[[Tensor], Tensor]] = {"raw": lambda score: score, "abs": torch.abs}


def check_compatible(sets: Sequence[ScoreSet]) -> None:
    """Two sets combine only if model and options agree.

    Raises:
        ValueError: Names the field that differs, and both values; or a set is a differential or a ranking.
    """
    first = sets[0]
    for score_set in sets:
        kind = score_set.manifest.get("kind", "scores")
        if kind != "scores":
            raise ValueError(f"score sets to combine must be of one reference set each, got a {kind}.")
    for other in sets[1:]:
        for what, ours, theirs in _identities(first, other):
            if ours != theirs:
                raise ValueError(
                    f"score sets combine only if their {what} agree, got {ours!r} ({_name(first)}) and {theirs!r} "
                    f"({_name(other)}). Score both with the same model and options."
                )


def _identities(first: ScoreSet, other: ScoreSet) -> list[tuple[str, Any, Any]]:
    def weights(score_set: ScoreSet) -> Any:
        return score_set.manifest.get("base_model", {}).get("weight_hash")

    return [
        ("model's weight hash", weights(first), weights(other)),
        ("options", _options(first), _options(other)),
        ("tokenizer hash", first.manifest.get("tokenizer_hash"), other.manifest.get("tokenizer_hash")),
        ("modules and shapes", first.shapes, other.shapes),
    ]


def _options(score_set: ScoreSet) -> Any:
    options = score_set.manifest.get("options")
    if options is None or "target" not in options:
        return options
    # Sets of before logprob could be explained do not say it. A difference of two tokens is no logit of one.
    return {"explain": "logit", **options, "contrasted": is_contrasted(score_set)}


def is_contrasted(score_set: ScoreSet) -> bool:
    """Whether any sample's own target was contrasted with another token."""
    return "against_ids" in score_set.manifest.get("data", {})


def _name(score_set: ScoreSet) -> str:
    return str(score_set.manifest.get("data", {}).get("name", "unnamed"))


def as_shares(score_set: ScoreSet) -> ScoreSet:
    """Each score as a share of the set's total absolute score: sets of different totals then weigh the same.

    Raises:
        ValueError: All scores are zero.

    Units: fraction of the total; the manifest's data says so.
    """
    total = sum(summary.absolute for summary in summaries(score_set.scores).values())
    if total == 0:
        raise ValueError(f"scores of {_name(score_set)} must not all be zero to be divided by their total.")
    manifest = Manifest(**score_set.manifest)
    manifest["data"] = {**manifest.get("data", {}), "divided_by": total}
    shares = LazyScores(score_set.shapes, lambda name: score_set.scores[name].double() / total)
    return ScoreSet(shares if isinstance(score_set.scores, LazyScores) else dict(shares), manifest)


def check_general(general_weight: float, general_penalty: str) -> None:
    """Refuse a weight below 1 and an unknown penalty.

    Raises:
        ValueError: Either.
    """
    if not 1.0 <= general_weight < float("inf"):
        raise ValueError(
            f"`general_weight` must be a number of at least 1, got {general_weight}. "
            "Set `PruningCallback.init_args.general_weight`."
        )
    if general_penalty not in PENALTIES:
        raise ValueError(
            f"`general_penalty` must be one of {sorted(PENALTIES)}, got {general_penalty!r}. "
            "Set `PruningCallback.init_args.general_penalty`."
        )


def differential(
    general_sets: Sequence[ScoreSet] | ScoreSet,
    behaviour_set: ScoreSet,
    general_weight: float = 1.0,
    general_penalty: Penalty = "raw",
) -> ScoreSet:
    """`general_weight * P(mean of the general sets) - behaviour`: the most negative carry the behaviour most.

    Args:
        general_sets: Scores of the general reference sets, one a seed; or of the only one.
        behaviour_set: Scores of the behaviour's reference set.
        general_weight: Weight g >= 1 of general relevance; 1 is the paper.
        general_penalty: P: "raw" (identity, the paper) or "abs".

    Returns:
        The differential; where the behaviour's scores are lazy, so are these.

    Raises:
        ValueError: No general set; weight below 1; unknown penalty; sets of another model or other options.

    Units: logits per sample.
    Source: SparC3 (arXiv 2506.13727), Sec. 3; weight and penalty are this project's.
    """
    check_general(general_weight, general_penalty)
    general_sets = [general_sets] if isinstance(general_sets, ScoreSet) else general_sets
    if not general_sets:
        raise ValueError("`general_sets` must hold at least one ScoreSet, got none. Set `data.general`.")
    check_compatible([*general_sets, behaviour_set])
    scores = contrasts(general_sets, behaviour_set, general_weight, general_penalty)
    inputs = {
        "general": [described_set(general_set) for general_set in general_sets],
        "behaviour": described_set(behaviour_set),
        "general_weight": general_weight,
        "general_penalty": general_penalty,
    }
    is_lazy = isinstance(behaviour_set.scores, LazyScores)
    return ScoreSet(scores if is_lazy else dict(scores), _manifest(behaviour_set.manifest, inputs))


def contrasts(
    general_sets: Sequence[ScoreSet], behaviour_set: ScoreSet, general_weight: float, general_penalty: Penalty
) -> LazyScores:
    """The scores of `differential`, one module of all sets at a time; summaries say how the general sets differ."""
    penalty = PENALTIES[general_penalty]
    shapes = {
        name: shape for name, shape in behaviour_set.shapes.items() if all(name in g.shapes for g in general_sets)
    }

    def contrast(name: str) -> tuple[Tensor, SeedSummary]:
        generals, behaviour = [general.scores[name] for general in general_sets], behaviour_set.scores[name]
        made, seeds = torch.empty_like(behaviour), []
        # In blocks of rows: of a whole layer the copies in float64 would be many times its scores.
        for rows in row_blocks(behaviour.shape):
            general = torch.stack([scores[rows].double() for scores in generals])
            mean, minus = general.mean(0), behaviour[rows].double()
            made[rows] = (general_weight * penalty(mean) - minus).float()
            own = [(general_weight * penalty(one) - minus).float() for one in general]
            seeds.append(_seed_summary(general, mean.abs(), own))
        return made, _joined(seeds)

    return LazyScores(shapes, contrast)


def _seed_summary(general: Tensor, mean: Tensor, own: Sequence[Tensor]) -> SeedSummary:
    """Shape: general (S, ...), mean and each of `own` (...)."""
    rows = [score if score.ndim == 1 else score.sum(1, dtype=torch.float64).float() for score in own]
    if len(general) < 2:
        return SeedSummary(0.0, 0, rows)
    ratios = (general.flatten(1).std(0) / mean.flatten())[mean.flatten() > 0]
    return SeedSummary(ratios.sum().item(), ratios.numel(), rows)


def _joined(parts: Sequence[SeedSummary]) -> SeedSummary:
    rows = zip(*(part.own_rows for part in parts), strict=True)
    return SeedSummary(
        sum(part.variation for part in parts), sum(part.num_varying for part in parts), [torch.cat(own) for own in rows]
    )


def described_set(score_set: ScoreSet) -> dict[str, Any]:
    """A set's data without what it holds of every sample, which its own manifest keeps; `contrasted` where it is."""
    data = score_set.manifest.get("data", {})
    described = {key: value for key, value in data.items() if key not in ("sample_ids", "target_ids", "against_ids")}
    return {**described, "contrasted": True} if is_contrasted(score_set) else described


def _manifest(behaviour: Manifest, inputs: dict[str, Any]) -> Manifest:
    manifest = Manifest(format_version=FORMAT_VERSION, kind="differential", inputs=inputs, dtype="float32")
    manifest["versions"] = package_versions()
    for key in ("base_model", "tokenizer_hash", "options", "left_out", "model_dtype"):
        if key in behaviour:
            manifest[key] = behaviour[key]
    return manifest


def differential_strength(general_sets: Sequence[ScoreSet], behaviour_set: ScoreSet) -> float | None:
    """`(sum R_general - sum R_behaviour) / sum R_general`; None for signed scores, whose sums cancel.

    Units: fraction of the general relevance, over the modules scored.
    Source: method.md, section 2.
    """
    if _is_signed(behaviour_set):
        return None
    general = sum(general_set.total for general_set in general_sets) / len(general_sets)
    return (general - behaviour_set.total) / general if general else None


def _is_signed(score_set: ScoreSet) -> bool:
    options = score_set.manifest.get("options")
    return options is not None and options["sign"] != "abs"


def seed_variation(general_sets: Sequence[ScoreSet], made: LazyScores | None = None) -> float | None:
    """Mean coefficient of variation of a score over the seeds, over scores that are not zero.

    None for one seed, and for signed scores: they average near 0, which no deviation can be a share of.

    Args:
        general_sets: Scores of the general reference sets, one a seed.
        made: Their `contrasts` with a behaviour: what was made of them is not made again.

    Units: standard deviation (n - 1) divided by the absolute mean.
    """
    if len(general_sets) < 2 or _is_signed(general_sets[0]):
        return None
    made = contrasts(general_sets, general_sets[0], 1.0, "raw") if made is None else made
    seeds = [summary.seeds for summary in summaries(made).values() if summary.seeds is not None]
    count = sum(one.num_varying for one in seeds)
    return sum(one.variation for one in seeds) / count if count else None


@dataclass
class MethodScores:
    """What one method has found; see `Loop` for which rank has it.

    Attributes:
        sets: Scores by reference set; empty where the method ranks without.
        ranking: The method's one ranking, lowest first; None where it scores sets.
    """

    sets: dict[str, ScoreSet] = field(default_factory=dict)
    ranking: ScoreSet | None = None

    def contrast(
        self,
        general: Sequence[str],
        behaviour: str,
        general_weight: float = 1.0,
        general_penalty: Penalty = "raw",
        divide_by_total: bool = False,
    ) -> ScoreSet:
        """What to select from, lowest first: the ranking, or the differential as LRP's.

        Args:
            general: Names of the general sets.
            behaviour: Name of the behaviour's set.
            general_weight: See `differential`; a ranking has none.
            general_penalty: See `differential`.
            divide_by_total: Take each set's scores as shares of their total; a ranking has none.
        """
        if self.ranking is not None:
            return self.ranking
        *general_sets, behaviour_set = [
            as_shares(self.sets[name]) if divide_by_total else self.sets[name] for name in (*general, behaviour)
        ]
        return differential(general_sets, behaviour_set, general_weight, general_penalty)
