"""The one loop that feeds every method: batches in, checked ScoreSets out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from sparc3_lightning.data.batches import NONE, Batch
from sparc3_lightning.data.samples import ReferenceSamples, token_hash
from sparc3_lightning.distributed.ranks import gather_objects, raise_together
from sparc3_lightning.lrp.targets import NEXT_TOKEN
from sparc3_lightning.models.sharding import reshard
from sparc3_lightning.scoring.activations import ForwardStatistics
from sparc3_lightning.scoring.combine import MethodScores
from sparc3_lightning.scoring.lazy import check_modules, check_scores
from sparc3_lightning.scoring.manifest import SetData
from sparc3_lightning.scoring.method import Method, Pass, Ranking, Scored
from sparc3_lightning.scoring.score_set import ScoreSet

Batches = Callable[[str], Iterable[Batch]]
"""`batches(description)` gives this rank's batches of a reference set, on the model's device, from the start."""
Keep = Callable[[str, str, ScoreSet], ScoreSet]
"""`keep(key, name, scores)` takes what a method has found of a set ("" for a ranking), and gives what to go on with."""


def set_data(
    ids: Sequence[Tensor],
    name: str = "",
    targets: Sequence[int] | None = None,
    against: Sequence[int] | None = None,
) -> SetData:
    """What manifests say of a reference set.

    Args:
        ids: Token ids, one tensor a sample.
        name: The set's, if it has one.
        targets: The token that follows each sample, where one is known to.
        against: The token that each target is contrasted with, where there is one.
    """
    hashed, num_tokens = token_hash(ids, targets, against), sum(len(sample) for sample in ids)
    data = SetData(token_hash=hashed, num_samples=len(ids), num_tokens=num_tokens)
    if name:
        data["name"] = name
    if any(token != NONE for token in against or ()):
        data["against_ids"] = [int(token) for token in against or ()]
    return data


def data_of(samples: ReferenceSamples, name: str) -> SetData:
    """What manifests say of the samples of a run's reference set, and where they come from."""
    told = set_data(samples.ids, name, samples.targets, samples.against)
    return {**told, "source": samples.source, "sample_ids": samples.sample_ids}


def see(one_pass: Pass, batches: Iterable[Batch], num_samples: int) -> Any:
    """Feed a pass this rank's batches of a reference set of so many samples, and give what all ranks have seen."""
    with one_pass:
        for batch in batches:
            one_pass.step(batch)
        return one_pass.reduce(num_samples)


def forward_pass(methods: Iterable[Method]) -> ForwardStatistics | None:
    """The one plain forward pass that all of these methods share; None where none needs any."""
    needing = [method for method in methods if method.needs]
    needs = {need for method in needing for need in method.needs}
    if not needs:
        return None
    scoring = needing[0].scoring
    reshard(scoring.model)
    inputs = scoring.names if "inputs" in needs else ()
    return ForwardStatistics(scoring.model, inputs, "activations" in needs, "maxima" in needs)


def _told(method: Method, data: SetData) -> SetData:
    """What a method's manifests say of a set: contrasts only where it has explained them."""
    told = data.copy()
    if method.options.get("target") != NEXT_TOKEN:
        told.pop("against_ids", None)
    return told


def _checked_set(method: Method, data: SetData, found: Scored) -> ScoreSet:
    """What a method has found of a reference set, on every rank its part. Every rank must call.

    Raises:
        ValueError: Scores that are not finite or negative where the sign is "abs"; or layers are missing. On every
            rank.
    """
    summaries = raise_together(lambda: check_scores(found.scores, method.sign), ValueError, method.scoring.device)
    parts = gather_objects([(list(found.scores), sum(summary.total for summary in summaries.values()))])
    check_modules([name for names, _ in parts for name in names], method.layers)
    if found.target_ids is None:
        return ScoreSet(found.scores, method.manifest("scores", data))
    # Only relevance is in logits.
    explained: SetData = {**data, "target_ids": found.target_ids}
    return ScoreSet(found.scores, method.manifest("scores", explained, sum(total for _, total in parts)))


class Loop:
    """Scores one reference set after the other by several methods; `finish` gives what all of them found.

    Every rank must call every method. Scores of neurons are on rank 0; those of weights are shared out over the ranks,
    until `saving.save_together` puts them together.

    Args:
        methods: By key.
        keep: Takes each set as soon as it is scored: written, it need not stay in memory. Every rank asks it.
    """

    def __init__(self, methods: Mapping[str, Method], keep: Keep = lambda key, name, scores: scores) -> None:
        self.methods, self.keep = methods, keep
        self.found = {key: MethodScores() for key in methods}

    def score(self, data: SetData, batches: Batches) -> None:
        """Score one reference set by every method that looks at it.

        Args:
            data: What its manifests say of it.
            batches: This rank's batches, as often as they are asked for.

        Raises:
            FloatingPointError: A gradient-based method found a value that is not finite.
            ValueError: Samples are missing or came twice; scores that cannot be right.
        """
        for description, one_pass, keys in self._passes():
            self.end(keys, see(one_pass, batches(description), data["num_samples"]), data)

    def end(self, keys: Iterable[str], seen: Any, data: SetData) -> None:
        """Score a reference set by what a pass over it has seen: for whoever drives the pass, as Lightning in predict.

        Args:
            keys: The methods that looked at it.
            seen: What the pass gave, of all ranks.
            data: What its manifests say of it.

        Raises:
            ValueError: Scores that cannot be right.
        """
        name = data.get("name", "")
        for key in keys:
            method = self.methods[key]
            told = _told(method, data)
            found = method.scores(seen, told)
            if found is not None:
                self.found[key].sets[name] = self.keep(key, name, _checked_set(method, told, found))

    def _passes(self) -> Iterator[tuple[str, Pass, list[str]]]:
        """What each pass is called, the pass, and the keys of the methods that look at it; made one by one."""
        forward = forward_pass(self.methods.values())
        if forward is not None:
            yield "forward statistics", forward, [key for key, method in self.methods.items() if method.needs]
        for key, method in self.methods.items():
            own = method.new_pass()
            if own is not None:
                yield key, own, [key]

    def finish(self) -> dict[str, MethodScores]:
        """All that was found, rankings included, by the key of the method."""
        for key, method in self.methods.items():
            if isinstance(method, Ranking):
                self.found[key].ranking = self.keep(key, "", ScoreSet(method.ranking(), method.ranking_manifest()))
        return self.found
