"""The Lightning data module: what is attributed, by role, what is evaluated on, and what `fit` trains on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from sparc3_lightning.data.batches import Batch, BatchDataset, Block, PackedBlocks, plan_batches
from sparc3_lightning.data.samples import (
    LoadContext,
    Prompt,
    PromptSet,
    ReferenceSamples,
    ReferenceSet,
    TextSet,
    check_at_least,
    fingerprint,
    said_of,
)
from sparc3_lightning.data.sources import Source
from sparc3_lightning.data.tasks import held_out_sets
from sparc3_lightning.data.words import WordSet
from sparc3_lightning.loops import no_progress
from sparc3_lightning.progress import announce

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTRAST = "_contrast"
_PRICE_DOCUMENTS = 256
_SEEDS_SHARE = "Give each set a `seed` of its own and all the same `num_seeds`."
_BEHAVIOURS_SHARE = (
    "Behaviours share neurons for that reason too: give each set texts of its own, as `among` of WordsThatMatter does "
    "where the file has a column of scores for each."
)


class SparC3DataModule(LightningDataModule):
    """All data of a run, each set under its role. Nothing is read before it is asked for: sources may need the model.

    A set that is attributed gives its name to its scores, so no two roles share a name.

    Args:
        general: Sets of ordinary samples, by name (`general_seed0`, ...). Their mean is the general score, which a
            behaviour is contrasted with.
        behaviours: The set that shows a behaviour, under the behaviour's name (`toxic`); of several each has a
            differential.
        contrast: By a behaviour's name, the set that takes the place of `general` in its differential; its own name is
            `NAME_contrast`.
        price: Text by name, to tell by what a removal costs: never attributed, and without the rows that are evaluated
            on. A screen reads it; by default documents of a `general` set that are not attributed.
        evaluation_prompts: Prompts to continue in an evaluation.
        evaluation_text: Text of the perplexity.
        evaluation_task: Task samples that nothing is scored by, to ask a circuit; of several tasks one set each, by the
            task's name.
        train_text: Text of `fit`.
        val_text: Text of the perplexity while fitting; None for `evaluation_text`.
        batch_size: Most samples a batch and rank in attribution.
        max_tokens: Most tokens a batch and rank in attribution, padding included; a batch of one sample may be longer.
            With a large `batch_size` it lets long samples go one by one and short ones many at a time.
        bucket: Let samples of alike length share a batch. Scores do not depend on any of the three.
        train_batch_size: Blocks a batch and rank in `fit`.
        block_length: Tokens a block in `fit`; None for the model's context.
        num_workers: Worker processes of each dataloader.
        allow_overlap: Let evaluation prompts be among the samples attributed, as in the document.
        train_seed: Seed of the order of the training blocks.
    """

    def __init__(
        self,
        general: dict[str, ReferenceSet] | None = None,
        behaviours: dict[str, ReferenceSet] | None = None,
        contrast: dict[str, ReferenceSet] | None = None,
        price: dict[str, TextSet] | None = None,
        evaluation_prompts: PromptSet | None = None,
        evaluation_text: TextSet | None = None,
        evaluation_task: ReferenceSet | dict[str, ReferenceSet] | None = None,
        train_text: TextSet | None = None,
        val_text: TextSet | None = None,
        batch_size: int = 8,
        max_tokens: int | None = None,
        bucket: bool = True,
        train_batch_size: int = 8,
        block_length: int | None = None,
        num_workers: int = 0,
        allow_overlap: bool = False,
        train_seed: int = 0,
    ) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 1, "data")
        check_at_least("max_tokens", max_tokens, 1, "data")
        check_at_least("train_batch_size", train_batch_size, 1, "data")
        check_at_least("block_length", block_length, 2, "data")
        self.general, self.behaviours, self.contrast = general or {}, behaviours or {}, contrast or {}
        self.reference_sets: dict[str, ReferenceSet] = {}
        self._keys: dict[str, str] = {}
        for role, sets in (("general", self.general), ("behaviours", self.behaviours), ("contrast", self.contrast)):
            for name, one in sets.items():
                self._add(role, name, one)
        self.price = price or {}
        self.evaluation_prompts, self.evaluation_text = evaluation_prompts, evaluation_text
        self.evaluation_task = evaluation_task
        self.train_text, self.val_text = train_text, val_text or evaluation_text
        self.batch_size, self.max_tokens, self.bucket = batch_size, max_tokens, bucket
        self.train_batch_size, self.block_length, self.train_seed = train_batch_size, block_length, train_seed
        self.num_workers, self.allow_overlap = num_workers, allow_overlap
        self._context: LoadContext | None = None
        self._samples: dict[str, ReferenceSamples] = {}

    def _add(self, role: str, name: str, one: ReferenceSet) -> None:
        """Enter a set under the name of its scores.

        Raises:
            ValueError: The name cannot be a directory's, is taken, or is to be a behaviour's and is none.
        """
        key = f"data.{role}.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name) or name == "differential":
            raise ValueError(
                "a set's name must be letters, digits, `_`, `-` and `.` (it names a directory), and not "
                f"`differential`, got {name!r}. Rename it in `data.{role}`."
            )
        if role == "contrast" and name not in self.behaviours:
            raise ValueError(f"`contrast` must name a behaviour, one of {list(self.behaviours)}. Rename `{key}`.")
        own = name + _CONTRAST if role == "contrast" else name
        if own in self._keys:
            raise ValueError(f"two sets must not write scores of one name, {own!r}. Rename `{self._keys[own]}`.")
        self.reference_sets[own], self._keys[own] = one, key

    def bind(self, tokenizer: PreTrainedTokenizerBase, max_length: int, **options: Any) -> SparC3DataModule:
        """Say which model the data is for, where no trainer does.

        Args:
            tokenizer: The model's tokenizer.
            max_length: Context of the model.
            **options: Further fields of `LoadContext`.
        """
        self._context = LoadContext(tokenizer, max_length, **{"lengths_of": self._lengths_of, **options})
        return self

    @property
    def context(self) -> LoadContext:
        """What the sources may ask of the model: what was bound, or else the trainer's module.

        Raises:
            ValueError: There is neither.
        """
        if self._context is not None:
            return self._context
        module = getattr(self.trainer, "lightning_module", None)
        if module is None:
            raise ValueError(
                "The data needs a tokenizer: run it with a trainer, or call `bind(tokenizer, max_length)`."
            )
        evaluator = getattr(module, "evaluator", None)
        decoding = getattr(evaluator, "decoding", None)
        return LoadContext(
            tokenizer=module.tokenizer,
            max_length=module.max_length,
            reserve_tokens=getattr(decoding, "max_new_tokens", 0),
            vocab_size=getattr(module, "vocab_size", None),
            score_responses=getattr(module, "score_responses", None),
            is_greedy=getattr(decoding, "temperature", None) == 0,
            next_token=getattr(module, "explains_next_token", False),
            score_texts=getattr(module, "score_texts", None),
            scorer_name=getattr(getattr(evaluator, "scorer", None), "name", None),
            lengths_of=self._lengths_of,
            progress=getattr(module, "progress", no_progress),
        )

    def check(self, names: Iterable[str]) -> None:
        """Refuse what cannot be read, before any long work.

        Args:
            names: What is going to be read: attributes of this object, such as `reference_sets` or `evaluation_text`.

        Raises:
            OSError: A file is missing, or the hub cannot be reached or refuses; says which.
            ValueError: A source's first row is broken, or a set's own scorer is.
        """
        keys: dict[Source, str] = {}
        for key, one in self._read_by(names).items():
            source = getattr(one, "source", None)
            if isinstance(source, Source):
                keys.setdefault(source, key)
        for source, key in keys.items():
            with said_of(key):
                source.check()
        for key, one in self._read_by(names).items():
            if isinstance(one, WordSet):
                with said_of(key):
                    one.open_scorer()

    def needs_scorer(self, names: Iterable[str]) -> bool:
        """Tell whether the evaluator's scorer is asked: of evaluation prompts, or to choose prompts or words by.

        Args:
            names: What is going to be read, as for `check`.
        """

        def chooses(one: object) -> bool:
            words = isinstance(one, WordSet) and one.scorer is None and one.chosen_by_score()
            return words or getattr(one, "select_by", None) == "response"

        read = [one for one in self._read_by(names).values() if one is not None]
        return self.evaluation_prompts in read or any(map(chooses, read))

    def _read_by(self, names: Iterable[str]) -> dict[str, object]:
        """What is read, by the key of a config that it stands under."""
        found: dict[str, object] = {}
        for name in names:
            value = getattr(self, name)
            keys = self._keys if name == "reference_sets" else {}
            sets = value.items() if isinstance(value, dict) else ()
            found |= {keys.get(own, f"data.{name}.{own}"): one for own, one in sets} or {f"data.{name}": value}
        return found

    @property
    def reference_names(self) -> list[str]:
        """Names of the sets to attribute, in the order of the predict dataloaders: general, behaviours, contrast."""
        return list(self.reference_sets)

    def key_of(self, name: str) -> str:
        """Give the key of a config that a set to attribute stands under, for messages."""
        return self._keys[name]

    def differential_names(self) -> tuple[list[str], str]:
        """Name the sets of the differential: those the behaviour is contrasted with, and the behaviour's.

        Raises:
            ValueError: There is not exactly one behaviour, or nothing to contrast it with.
        """
        if len(self.behaviours) != 1:
            raise ValueError(
                f"`behaviours` must name one set to take the differential of, got {list(self.behaviours)}. Set "
                "`data.behaviours`: a sweep, and methods that compare sets, take one."
            )
        ((behaviour, general),) = self.differentials().items()
        return general, behaviour

    def differentials(self) -> dict[str, list[str]]:
        """Name, by behaviour, the sets that it is contrasted with: its own in `contrast`, or else those of `general`.

        Raises:
            ValueError: There is no behaviour, or nothing to contrast one with.
        """
        if not self.behaviours:
            raise ValueError(
                "`behaviours` must name one set or more to take the differential of, got []. Set `data.behaviours`."
            )
        found: dict[str, list[str]] = {}
        for behaviour in self.behaviours:
            found[behaviour] = [behaviour + _CONTRAST] if behaviour in self.contrast else list(self.general)
            if not found[behaviour]:
                raise ValueError(
                    f"`general` must name at least one set that {behaviour!r} is contrasted with, got none. Set "
                    f"`data.general`, or `data.contrast.{behaviour}`."
                )
        return found

    def attributes(self) -> dict[str, str]:
        """Name, by behaviour, the scorer's attribute that its words are chosen by, where it names one."""
        named = {name: one.attribute for name, one in self.behaviours.items() if isinstance(one, WordSet)}
        return {name: attribute for name, attribute in named.items() if attribute is not None}

    def warn_of_shared_samples(self, names: Iterable[str]) -> None:
        """Warn where two of the sets hold the same texts: seeds agree, or sets differ, less than they seem to."""
        for first, second in combinations(names, 2):
            num = len(self.shared_texts([first], [second]))
            both = {first, second} <= self.behaviours.keys()
            if num:
                warnings.warn(
                    f"{num} texts of `{self.key_of(first)}` are also in `{self.key_of(second)}`. "
                    + (_BEHAVIOURS_SHARE if both else _SEEDS_SHARE),
                    stacklevel=2,
                )

    def shared_texts(self, names: Iterable[str], others: Iterable[str]) -> set[str]:
        """Fingerprints of the texts that some sets have in common with others."""
        texts = (
            {one for name in some for one in self.reference_samples[name].text_fingerprints} for some in (names, others)
        )
        return set.intersection(*texts)

    def warn_of_attributed(self, measure: str, fingerprints: Collection[str]) -> None:
        """Warn where a measure reads texts that are attributed, unless the config allows it.

        Args:
            measure: Its class.
            fingerprints: Of the texts that it reads.
        """
        if self.allow_overlap or not fingerprints:
            return
        for name, samples in self.reference_samples.items():
            if {*fingerprints} & {*samples.fingerprints}:
                warnings.warn(
                    f"some texts of `{measure}` are also in `{self.key_of(name)}`: what it shows may hold for "
                    "the samples attributed alone. Give it texts of its own.",
                    stacklevel=2,
                )

    @property
    def reference_samples(self) -> dict[str, ReferenceSamples]:
        """The samples of every reference set, read once."""
        return {name: self._load(name) for name in self.reference_names}

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The evaluation prompts, without those that are attributed; none where the config names none."""
        if self.evaluation_prompts is None:
            return []
        exclude = self._attributed()
        with said_of("data.evaluation_prompts"):
            return self.evaluation_prompts.load_prompts(self.context, exclude=exclude)

    @cached_property
    def text_rows(self) -> list[str]:
        """The raw rows of the evaluation text; none where the config names none."""
        return _rows_of(self.evaluation_text, "data.evaluation_text")

    @cached_property
    def task_samples(self) -> dict[str, tuple[str, ReferenceSamples]]:
        """The samples that each task is asked beside its own, with their key; none where the config names none.

        Raises:
            ValueError: There are several tasks, and not one set for each.
        """
        found = {}
        for task, (key, one) in held_out_sets(self.evaluation_task, self.behaviours).items():
            with said_of(key):
                found[task] = key, one.load(self.context)
        return found

    @cached_property
    def price_rows(self) -> dict[str, list[str]]:
        """The raw rows of each price text, without those that are evaluated on or attributed.

        Raises:
            ValueError: Nothing is left of a text.
        """
        attributed = (one for samples in self.reference_samples.values() for one in samples.fingerprints)
        taken = {fingerprint(row) for row in self.text_rows}.union(attributed) - {fingerprint("")}
        found = {name: _rows_of(text, f"data.price.{name}") for name, text in self.price.items()}
        found = found or self._more_general()
        rows = {name: [row for row in text if fingerprint(row) not in taken] for name, text in found.items()}
        for name, left in rows.items():
            if not any(map(str.strip, left)):
                raise ValueError(
                    f"`price` must hold text that is neither evaluated on nor attributed, but all of {name!r} is. Set "
                    f"`data.price.{name}`."
                )
        return rows

    def _more_general(self) -> dict[str, list[str]]:
        """Documents of the first general set that has some to spare, those attributed among them."""
        for name, one in self.general.items():
            if rows := one.documents(len(self.reference_samples[name]) + _PRICE_DOCUMENTS):
                return {name: rows}
        return {}

    @cached_property
    def val_rows(self) -> list[str]:
        """The raw rows of the text that is evaluated while fitting."""
        key = "evaluation_text" if self.val_text is self.evaluation_text else "val_text"
        return _rows_of(self.val_text, f"data.{key}")

    def describe(self) -> dict[str, Any]:
        """Give the evaluation sets' sources as JSON, for the results."""
        sets = {"evaluation_prompts": self.evaluation_prompts, "evaluation_text": self.evaluation_text}
        described = {name: None if source is None else source.describe() for name, source in sets.items()}
        price = {name: text.describe() for name, text in self.price.items()}
        return {**described, "price": price, "allow_overlap": self.allow_overlap}

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """Give one dataloader a reference set; all ranks make equally many steps in each.

        Raises:
            ValueError: The config names none.
        """
        if not self.reference_sets:
            raise ValueError("there is no set to attribute. Set `data.general` and `data.behaviours`.")
        if isinstance(self.trainer, Trainer):
            announce(self.trainer, "reading the data")
        loaders = [self._reference_loader(samples) for samples in self.reference_samples.values()]
        if "evaluation_prompts" in getattr(getattr(self.trainer, "lightning_module", None), "reads", ()):
            self._choose_prompts()
        return loaders

    def train_dataloader(self) -> DataLoader[Block]:
        """Give packed blocks in a new random order each epoch.

        Raises:
            ValueError: The config names no training text, or its blocks exceed the context.
        """
        if self.train_text is None:
            raise ValueError("`train_text` must name the text to train on. Set `data.train_text`.")
        context = self.context
        length = self.block_length or context.max_length
        if length > context.max_length:
            raise ValueError(
                f"`block_length` must be at most the model's context of {context.max_length} tokens, got {length}. "
                "Set `data.block_length`."
            )
        rows = _rows_of(self.train_text, "data.train_text")
        blocks = PackedBlocks(rows, context.tokenizer, length, context.vocab_size)
        rank, world_size = self._rank_and_world_size()
        sampler: DistributedSampler[Block] = DistributedSampler(
            blocks, world_size, rank, seed=self.train_seed, drop_last=True
        )
        return DataLoader(blocks, self.train_batch_size, sampler=sampler, num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Give one empty batch on every rank: the evaluator loops over the text itself. `fit` needs no text."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        return [] if fitting and self.val_text is None else [_one_batch()]

    def test_dataloader(self) -> DataLoader[Any]:
        """Give one empty batch on every rank: the evaluator loops over text and prompts itself."""
        self._choose_prompts()
        return _one_batch()

    def _choose_prompts(self) -> None:
        """Read the prompts now, where the base model may be asked: before the rules are on or a recipe is applied."""
        assert self.prompts is not None

    def _load(self, name: str) -> ReferenceSamples:
        if name not in self._samples:
            with said_of(self.key_of(name)):
                samples = self.reference_sets[name].load(self.context)
            if self.context.next_token and samples.targets is None:
                raise ValueError(
                    "`target: next_token` needs samples that a known token follows, such as those of WordsThatMatter, "
                    f"OrdinaryWords or C4, got `{self.key_of(name)}` without. Set it to one of these (C4 with `path` "
                    "crops any file of texts), or `model.target` to last_token_argmax."
                )
            self._samples[name] = samples
        return self._samples[name]

    def _lengths_of(self, name: str) -> list[int]:
        """Tokens of each sample of a set that another set's `length_like` names. Every rank calls."""
        if name not in self.reference_sets or getattr(self.reference_sets[name], "length_like", None) is not None:
            free = [key for key, one in self.reference_sets.items() if getattr(one, "length_like", None) is None]
            raise ValueError(
                f"`length_like` must name a set of the data whose lengths are its own, one of {free}, got {name!r}. "
                "Set `init_args.length_like`."
            )
        return [len(ids) for ids in self._load(name).ids]

    def _attributed(self) -> dict[str, str]:
        """Give the fingerprints and the texts that evaluation prompts must not be or be in, each with its set's key.

        Ids mean nothing across files.
        """
        prompts = self.evaluation_prompts
        if self.allow_overlap or prompts is None:
            return {}
        shared = [name for name, source in self.reference_sets.items() if source.may_share(prompts)]
        return {
            one: self.key_of(name)
            for name in shared
            for one in (*self._load(name).fingerprints, *self._load(name).texts)
        }

    def _reference_loader(self, samples: ReferenceSamples) -> DataLoader[Batch]:
        lengths = [len(ids) for ids in samples.ids]
        rank, world_size = self._rank_and_world_size()
        batches = plan_batches(lengths, self.batch_size, self.max_tokens, self.bucket, rank, world_size)
        dataset = BatchDataset(samples.ids, batches, samples.targets, samples.against or None)
        # A batch is one item: Lightning rebuilds predict dataloaders, and takes no batch sampler but torch's own.
        return DataLoader(dataset, batch_size=None, num_workers=self.num_workers)

    def _rank_and_world_size(self) -> tuple[int, int]:
        """Give this rank among those that get different data; under tensor parallelism they are fewer than all."""
        ranks = getattr(self.trainer, "distributed_sampler_kwargs", None) or {}
        return ranks.get("rank", 0), ranks.get("num_replicas", 1)


def _rows_of(text: TextSet | None, key: str) -> list[str]:
    """The rows of a text that stands under this key; none where there is none."""
    with said_of(key):
        return text.load_rows() if text else []


def _one_batch() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(1)))
