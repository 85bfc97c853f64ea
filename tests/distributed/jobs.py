"""What each process of a distributed test runs: predict and test through Lightning's Trainer, on fixed samples."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from callbacks import RelevanceCallback
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.samples import LoadContext, Prompt, PromptSet, ReferenceSamples, ReferenceSet, TextSet
from sparc3_lightning.distributed.ranks import gather_objects, world_size
from sparc3_lightning.evaluation import Decoding, Evaluator
from sparc3_lightning.lrp.targets import NEXT_TOKEN
from sparc3_lightning.metrics import LexicalScorer
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.scoring.gradient import RelevancePass
from sparc3_lightning.scoring.method import Scored
from tests.tiny import tiny_samples

LENGTHS = (7, 3, 12, 1, 5, 9, 2)  # seven, so that four ranks get 2, 2, 2 and 1, and a padding sample
AGAINST = (1, -1, 2, 47, 0, -1, 3)


class FixedSamples(ReferenceSet):
    """The samples of `tiny_samples`, or those given, and what follows them and is held against it, if anything."""

    def __init__(
        self,
        seed: int = 0,
        ids: Sequence[Tensor] | None = None,
        following: Sequence[Tensor] = (),
        against: Sequence[int] = (),
    ) -> None:
        self.ids = tiny_samples(LENGTHS, seed) if ids is None else list(ids)
        self.following, self.against = list(following), list(against)

    def load(self, context: LoadContext) -> ReferenceSamples:
        names = [str(i) for i in range(len(self.ids))]
        return ReferenceSamples(
            self.ids, {"class": "FixedSamples"}, names, following=self.following, against=self.against
        )


class FixedPrompts(PromptSet):
    def load_prompts(self, context: LoadContext, exclude: Mapping[str, str] = {}) -> list[Prompt]:
        return [Prompt(str(i), " ".join(f"w{(7 * i + k) % 40}" for k in range(1 + 2 * i))) for i in range(7)]


class FixedText(TextSet):
    def load_rows(self) -> list[str]:
        return [" ".join(f"w{(row * row + k * k) % 45}" for k in range(23)) for row in range(9)]


class Case(NamedTuple):
    """One predict run."""

    strategy: str = "replicated"
    granularity: str = "neuron"
    sign: str = "abs"
    dtype: str = "float64"
    target: str = "last_token_argmax"

    @property
    def name(self) -> str:
        return "-".join(self)

    @property
    def explains(self) -> dict[str, str]:
        """What of each sample is explained: of words the log-probability."""
        return {"target": self.target, "explain": "logprob" if self.target == NEXT_TOKEN else "logit"}

    def sets(self) -> dict[str, ReferenceSet]:
        """The general and the behaviour's set, of words with what follows each sample, and contrasts."""
        known = [(following(seed), AGAINST) if self.target == NEXT_TOKEN else ((), ()) for seed in (0, 1)]
        return {name: FixedSamples(seed, None, *known[seed]) for seed, name in enumerate(("general", "toxic"))}


def following(seed: int) -> list[Tensor]:
    """A word after each sample, of two tokens; the first is explained."""
    return tiny_samples((2,) * len(LENGTHS), seed + 10)


DEFAULT = Case()
CASES = [
    *(Case(s, g, n) for s in ("replicated", "sharded") for g in ("neuron", "weight") for n in ("abs", "signed")),
    *(Case(s, g, "abs", "float32") for s in ("replicated", "sharded") for g in ("neuron", "weight")),
    *(Case(s, g, "signed", "float64", NEXT_TOKEN) for s in ("replicated", "sharded") for g in ("neuron", "weight")),
]


def make_trainer(strategy: str = "replicated", *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet trainer over all processes of the test, or of this one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    # Under pytest itself no process group may start: Lightning behaves otherwise once there is one.
    replicated = "ddp" if "WORLD_SIZE" in os.environ else "auto"
    return Trainer(
        accelerator="cpu",
        devices=world,
        strategy=ModelParallelStrategy(world, 1) if strategy == "sharded" else replicated,
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        **{
            "inference_mode": False, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False, **options,
        },
    )  # fmt: skip


def make_module(model: str, case: Case = DEFAULT, **options: Any) -> SparC3Module:
    scorer = LexicalScorer([f"w{n}" for n in range(0, 40, 3)])
    evaluator = Evaluator(scorer, Decoding(max_new_tokens=5, num_completions=2), window=16, batch_size=3,
                          toxicity_protocol="custom", num_draws=100)  # fmt: skip
    settings = {"granularity": case.granularity, "sign": case.sign, "dtype": case.dtype, "modules": "all",
                **case.explains}  # fmt: skip
    return SparC3Module(model=model, evaluator=evaluator, **{**settings, **options})


def make_data(batch_size: int = 2, **sets: ReferenceSet) -> SparC3DataModule:
    """Sets by name; the one called `toxic` is the behaviour's."""
    general = sets or {"general": FixedSamples(0), "toxic": FixedSamples(1)}
    behaviours = {name: general.pop(name) for name in ("toxic",) if name in general}
    texts = {"evaluation_prompts": FixedPrompts(), "evaluation_text": FixedText()}
    return SparC3DataModule(general, behaviours, batch_size=batch_size, **texts)


def predict(trainer: Trainer, module: SparC3Module, data: SparC3DataModule | None = None) -> SparC3Module:
    trainer.predict(module, datamodule=data or make_data(), return_predictions=False)
    return module


@contextmanager
def reduced_scores() -> Iterator[list[dict[str, Tensor]]]:
    """The scores of each reference set as they are reduced, in the accumulators' type, those of all ranks together."""
    found: list[dict[str, Tensor]] = []

    reduce = RelevancePass.reduce

    def gathered(relevance: RelevancePass, num_samples: int) -> Scored:
        attribution, reduced = relevance.attribution, reduce(relevance, num_samples)
        parts = gather_objects([reduced.scores])
        if attribution.granularity == "weight" and len(attribution.names) > world_size() > 1:
            assert all(0 < len(part) < len(attribution.names) for part in parts), "no rank has all"
        everything = {name: score for part in parts for name, score in part.items()}
        found.append({name: everything[name] for name in attribution.names})
        return reduced

    with mock.patch.object(RelevancePass, "reduce", gathered):
        yield found


def predict_cases(model: str, directory: str, cases: Sequence[Case]) -> None:
    """Each case's scores; and each strategy's evaluation, on every rank."""
    for case in cases:
        with reduced_scores() as found:
            trainer = make_trainer(case.strategy, RelevanceCallback())
            predict(trainer, make_module(model, case), make_data(**case.sets()))
        if trainer.is_global_zero:
            torch.save(found, Path(directory) / f"{case.name}.pt")
    for strategy in sorted({case.strategy for case in cases}):
        module = make_module(model)
        trainer = make_trainer(strategy)
        trainer.test(module, datamodule=make_data(), verbose=False)
        assert module.run.baseline is not None
        evaluation = module.run.baseline.to_json()
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        content = {"evaluation": evaluation, "logged": logged}
        (Path(directory) / f"{strategy}-{trainer.global_rank}.json").write_text(json.dumps(content))


class SameWeights(Callback):
    """Fails where the weights at the end of the run are not, bit for bit, those of its start. List it last."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = local_weights(pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        after = local_weights(pl_module)
        assert after.keys() == self.before.keys()
        assert all(torch.equal(after[name], value) for name, value in self.before.items())


def local_weights(module: LightningModule) -> dict[str, Tensor]:
    """This rank's part of each parameter. (`state_dict` puts FSDP2's parameters back to their shards first.)"""
    return {
        name: (value.to_local() if hasattr(value, "to_local") else value).clone()
        for name, value in module.state_dict().items()
    }
