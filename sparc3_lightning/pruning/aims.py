"""What recipes of several behaviours are for, and the contrast that each is selected from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from sparc3_lightning.lrp.attribution import Granularity
from sparc3_lightning.pruning.select import neuron_modules
from sparc3_lightning.scoring.combine import PENALTIES, Penalty, described_set
from sparc3_lightning.scoring.lazy import LazyScores
from sparc3_lightning.scoring.manifest import Manifest
from sparc3_lightning.scoring.score_set import ScoreSet

RecipeKind = Literal["each", "all", "shared"]
KINDS: tuple[str, ...] = ("each", "all", "shared")
SPECIFIC = "specific_to_"
_KEYS = "PruningCallback.init_args"


@dataclass(frozen=True)
class Aim:
    """What a recipe is for.

    Attributes:
        name: The recipe's.
        kind: `each` (one behaviour), `all`, `shared` or `specific`.
        behaviours: What its neurons, or weights, are to serve.
        general: Names of the sets that these are contrasted with.
        others: Behaviours that they are not to serve; only of `specific`.
        attribute: Of the scorer, which says whether it worked: what its one behaviour's words were chosen by. None for
            the scorer's main one.
    """

    name: str
    kind: str
    behaviours: tuple[str, ...]
    general: tuple[str, ...]
    others: tuple[str, ...] = ()
    attribute: str | None = None


def aims_of(
    differentials: Mapping[str, Sequence[str]],
    recipes: Sequence[str] = ("each",),
    specific_to: Sequence[str] = (),
    attributes: Mapping[str, str] = {},
) -> list[Aim]:
    """The recipes of a run, in the order asked, those of specific neurons last.

    Args:
        differentials: By behaviour the sets that it is contrasted with.
        recipes: Kinds.
        specific_to: Behaviours that a recipe of specific neurons is made for.
        attributes: By behaviour the attribute that its words were chosen by, where it names one.

    Raises:
        ValueError: No recipe; an unknown kind or behaviour; one behaviour alone, which nothing is shared with; a
            behaviour that bears the name of another recipe.
    """
    names = list(differentials)
    for option, known, given in (("recipes", KINDS, recipes), ("specific_to", names, specific_to)):
        if unknown := [one for one in given if one not in known]:
            raise ValueError(f"`{option}` must be some of {list(known)}, got {unknown[0]!r}. Set `{_KEYS}.{option}`.")
    asked = [*(kind for kind in recipes if kind != "each"), *(SPECIFIC + name for name in specific_to)]
    if len(names) < 2 and asked:
        raise ValueError(
            f"recipes `{asked[0]}` need several behaviours, got {names}. Set `data.behaviours`, or leave out "
            f"`{_KEYS}.recipes` and `specific_to`."
        )
    if not recipes and not specific_to:
        raise ValueError(f"`recipes` must name at least one of {list(KINDS)}, got none. Set `{_KEYS}.recipes`.")
    if taken := sorted({*names} & {*asked}):
        raise ValueError(
            f"no behaviour may bear a recipe's name, got {taken[0]!r}. Rename `data.behaviours.{taken[0]}`."
        )
    every = tuple(dict.fromkeys(one for general in differentials.values() for one in general))
    aims = []
    for kind in dict.fromkeys(recipes):
        one = [Aim(name, kind, (name,), tuple(differentials[name]), (), attributes.get(name)) for name in names]
        aims += one if kind == "each" else [Aim(kind, kind, tuple(names), every)]
    for name in dict.fromkeys(specific_to):
        others = tuple(other for other in names if other != name)
        general, attribute = tuple(differentials[name]), attributes.get(name)
        aims.append(Aim(SPECIFIC + name, "specific", (name,), general, others, attribute))
    return aims


def aimed_contrast(
    aim: Aim,
    differentials: Mapping[str, ScoreSet],
    sets: Mapping[str, ScoreSet],
    penalty: Penalty = "raw",
    granularity: Granularity = "neuron",
) -> ScoreSet:
    """What a recipe is selected from, lowest first, all in the unit of scores.

    Of one behaviour its differential. Of several a score a neuron: `all` takes the mean of the differentials, so that
    what serves one behaviour much outweighs what serves each a little; `shared` the highest of them: below 0 a neuron
    serves each behaviour more than it serves in general; `specific` the highest of the behaviour's own differential and
    of `P(another's score) - own` over the others: below 0 a neuron serves no other behaviour as much. Ranks would
    always find neurons that are shared, or specific; a sign can say that there are none. Of single weights the same,
    each for itself.

    Args:
        aim: What the recipe is for.
        differentials: By behaviour.
        sets: Scores of each behaviour's samples; only `specific` reads them.
        penalty: P: "raw" (identity) or "abs".
        granularity: What is selected: of weights' scores a "neuron" is the sum of its row.

    Returns:
        The contrast; where the differentials are lazy, so is this: one module of one behaviour after the other.

    Shape: of several behaviours (F,) a neuron module; with granularity "weight" as the scores.
    Units: logits or nats per sample, as the scores.
    """
    own = [differentials[name] for name in aim.behaviours]
    if aim.kind == "each":
        return own[0]
    is_neuron = granularity == "neuron"

    def of(scores: ScoreSet, name: str) -> Tensor:
        return (scores.summary(name).rows if is_neuron else scores.scores[name]).double()

    def contrast(name: str) -> Tensor:
        parts: Iterable[Tensor] = (of(one, name) for one in own)
        if aim.kind == "all":
            return reduce(torch.add, parts) / len(own)
        if aim.kind == "specific":
            score = of(sets[aim.behaviours[0]], name)
            parts = chain(parts, (PENALTIES[penalty](of(sets[other], name)) - score for other in aim.others))
        return reduce(torch.maximum, parts)

    shapes = own[0].shapes
    if is_neuron:
        shapes = {name: shapes[name][:1] for name in neuron_modules(own[0]).values()}
    scores = LazyScores(shapes, contrast)
    return ScoreSet(scores if isinstance(own[0].scores, LazyScores) else dict(scores), _manifest(aim, own, sets))


def _manifest(aim: Aim, own: Sequence[ScoreSet], sets: Mapping[str, ScoreSet]) -> Manifest:
    inputs = [one.manifest.get("inputs", {}) for one in own]
    general = {one.get("name"): one for found in inputs for one in found.get("general", [])}
    told: dict[str, Any] = {
        **inputs[0],
        "general": [*general.values()],
        "behaviour": [found.get("behaviour") for found in inputs],
        "recipe": aim.kind,
    }
    if aim.others:
        told["others"] = [described_set(sets[name]) for name in aim.others]
    manifest = Manifest(**own[0].manifest)
    manifest["inputs"] = told
    return manifest
