"""The data module: a dataloader a set, prompts that are never attributed, and what a config may say."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from transformers import PreTrainedTokenizerBase

from sparc3_lightning.data import C4, LoadContext, Prompt, PromptFile, RealToxicityPrompts, TextFile, WordsThatMatter
from sparc3_lightning.data.c4 import shuffled
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.samples import ReferenceSamples, ReferenceSet, fingerprint

WriteJsonl = Callable[..., str]


@pytest.fixture
def path(write_jsonl: WriteJsonl) -> str:
    return write_jsonl(
        {"prompt": f"prompt {number:02d}", "prompt_toxicity": 0.95, "text": f"some text {number:02d} " * 3}
        for number in range(40)
    )


def make(path: str, **options: Any) -> SparC3DataModule:
    general = {"general": C4(path, num_samples=7, length=16)}
    return SparC3DataModule(general, {"toxic": RealToxicityPrompts(path, num_prompts=5)}, **options)


def test_one_dataloader_a_set_in_the_order_of_the_config(path: str, context: LoadContext) -> None:
    data = make(path, batch_size=4).bind(context.tokenizer, 64)
    assert data.reference_names == ["general", "toxic"]
    general, toxic = data.predict_dataloader()
    assert [len(batch["indices"]) for batch in general] == [4, 3]
    assert torch.cat([batch["indices"] for batch in toxic]).tolist() == [0, 1, 2, 3, 4]
    for name, loader in zip(data.reference_names, (general, toxic), strict=True):
        for batch in loader:
            for ids, length, index in zip(batch["input_ids"], batch["lengths"], batch["indices"], strict=True):
                assert ids[:length].tolist() == data.reference_samples[name].ids[index].tolist()


def test_options_shape_the_batches(context: LoadContext) -> None:
    class Lengths(ReferenceSet):
        def load(self, context: LoadContext) -> ReferenceSamples:
            return ReferenceSamples([torch.arange(length) for length in (3, 9, 4, 8)], {}, list("abcd"))

    def indices(**options: Any) -> list[list[int]]:
        data = SparC3DataModule({"set": Lengths()}, **options).bind(context.tokenizer, 64)
        return [batch["indices"].tolist() for batch in data.predict_dataloader()[0]]

    assert indices(batch_size=2) == [[1, 3], [2, 0]]
    assert indices(batch_size=2, bucket=False) == [[0, 1], [2, 3]]
    assert indices(max_tokens=10) == [[1], [3], [2, 0]]


def test_sets_are_read_once(path: str, context: LoadContext) -> None:
    data = make(path).bind(context.tokenizer, 64)
    first = data.reference_samples["general"]
    data.predict_dataloader()
    assert data.reference_samples["general"] is first


def test_ranks_of_the_trainer_are_used(path: str, context: LoadContext) -> None:
    weights, steps = 0.0, set()
    for rank in range(4):
        data = make(path, batch_size=1).bind(context.tokenizer, 64)
        data.trainer = SimpleNamespace(distributed_sampler_kwargs={"rank": rank, "num_replicas": 4})  # type: ignore[assignment]
        batches = list(data.predict_dataloader()[0])
        steps.add(len(batches))
        weights += sum(float(batch["weights"].sum()) for batch in batches)
    assert steps == {2}
    assert weights == 7.0


@pytest.mark.parametrize("allow_overlap", [False, True])
def test_attributed_prompts_are_not_evaluated_unless_asked(
    write_jsonl: WriteJsonl, context: LoadContext, allow_overlap: bool
) -> None:
    path = write_jsonl(
        {
            "id": f"original {number}",
            "prompt": f"prompt {number:02d}",
            "prompt_toxicity": 0.95,
            "text": "x" * 20 * number,
        }
        for number in range(40)
    )
    copy = write_jsonl(({"prompt": f"prompt {number:02d}", "id": str(number)} for number in range(40)), "copy.jsonl")
    data = make(path, evaluation_prompts=PromptFile(copy), allow_overlap=allow_overlap).bind(context.tokenizer, 64)
    evaluated = {prompt.fingerprint for prompt in data.prompts}
    shared = evaluated & {*data.reference_samples["toxic"].fingerprints}
    assert len(evaluated) == (40 if allow_overlap else 35)
    assert len(shared) == (5 if allow_overlap else 0)


def test_other_prompts_with_the_same_ids_are_evaluated(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    # files number their rows alike: an id says nothing across two of them
    files = [
        write_jsonl([{"id": str(n), "prompt": f"{name} {n}"} for n in range(10)], f"{name}.jsonl")
        for name in ("a", "b")
    ]
    data = SparC3DataModule(None, {"toxic": PromptFile(files[0])}, evaluation_prompts=PromptFile(files[1]))
    data.bind(context.tokenizer, 64)
    assert len(data.prompts) == 10
    assert data.describe()["evaluation_prompts"]["drawn_from"]["num_rows"] == 10


def test_an_evaluation_reads_only_sets_that_may_hold_its_prompts(path: str, context: LoadContext) -> None:
    reads: list[str] = []

    class Spy(RealToxicityPrompts):
        def load(self, context: LoadContext) -> Any:
            reads.append(self.part)
            return super().load(context)

    sets = {"general": C4(), "half": Spy(path, part="attribution"), "all": Spy(path, num_prompts=3)}
    prompts = RealToxicityPrompts(path, part="evaluation")
    data = SparC3DataModule(sets, evaluation_prompts=prompts).bind(context.tokenizer, 64)
    assert len(data.prompts) > 5
    assert reads == ["all"]


@pytest.mark.parametrize("num_prompts", [None, 20])
def test_a_local_file_of_c4_may_hold_the_prompts(
    write_jsonl: WriteJsonl, context: LoadContext, num_prompts: int | None
) -> None:
    path = write_jsonl({"prompt": f"you number {number:02d}"} for number in range(20))
    prompts = PromptFile(path, num_prompts=num_prompts)
    local = C4(path, num_samples=20, length=4, num_seeds=1, text_column="prompt")
    data = SparC3DataModule(None, {"mine": local}, evaluation_prompts=prompts).bind(context.tokenizer, 64)
    said = r"20 are attributed, by \['data\.behaviours\.mine'\]: .* `data\.allow_overlap`"
    with pytest.raises(ValueError, match=rf"rows\.jsonl has only 0 prompts .*{said}"):
        assert data.prompts
    data = SparC3DataModule(None, {"mine": C4()}, evaluation_prompts=PromptFile(path)).bind(context.tokenizer, 64)
    assert len(data.prompts) == 20, "the hub's stream is not read"


def test_text_rows_and_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    data = SparC3DataModule(evaluation_text=TextFile(str(tmp_path / "a.txt")))
    assert data.text_rows == data.val_rows == ["one", "", "two"]
    nothing = SparC3DataModule()
    assert [len(nothing.text_rows), len(nothing.val_rows), len(nothing.prompts)] == [0, 0, 0]
    assert data.describe()["evaluation_text"]["class"] == "TextFile"


def test_validation_and_test_have_one_empty_batch() -> None:
    data = SparC3DataModule()
    assert len(data.val_dataloader()) == len(data.test_dataloader()) == 1


def test_training_blocks(path: str, context: LoadContext) -> None:
    data = SparC3DataModule(train_text=TextFile(path), train_batch_size=2, block_length=20).bind(context.tokenizer, 64)
    batches = list(data.train_dataloader())
    assert batches[0]["input_ids"].shape == batches[0]["labels"].shape == (2, 20)
    with pytest.raises(ValueError, match="`block_length` must be at most the model's context of 16 tokens, got 20"):
        data.bind(context.tokenizer, 16).train_dataloader()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda data: data.predict_dataloader(), "`data.general` and `data.behaviours`"),
        (lambda data: data.train_dataloader(), "`train_text` must name the text to train on"),
        (lambda data: data.context, r"call `bind\(tokenizer, max_length\)`"),
    ],
)
def test_what_is_missing_is_named(ask: Callable[[SparC3DataModule], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(SparC3DataModule())


class Module(LightningModule):
    """Stands in for SparC3Module: has what the data asks of a model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = 64
        self.evaluator = SimpleNamespace(decoding=SimpleNamespace(max_new_tokens=40))
        self.seen: dict[int, list[int]] = {0: [], 1: []}

    def score_responses(self, prompts: list[Prompt]) -> list[float]:
        return [1.0] * len(prompts)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen[dataloader_idx] += batch["indices"].tolist()


def test_predict_under_lightnings_trainer(path: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    data = SparC3DataModule(
        {"general": C4(path, num_samples=7, length=16)},
        {"toxic": RealToxicityPrompts(path, "response", num_prompts=5)},
        evaluation_prompts=PromptFile(path),
        batch_size=2,
    )
    module = Module(tokenizer)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    trainer.predict(module, data, return_predictions=False)
    assert module.seen == {0: list(range(7)), 1: list(range(5))}
    assert data.reference_samples["toxic"].source["num_responses"] == 40
    assert data.context.reserve_tokens == 40
    assert len(data.prompts) == 35


CONFIG = """
data:
  general:
    general_seed0:
      class_path: sparc3_lightning.data.C4
      init_args: {path: PATH, num_samples: 7, length: 16, crop: random}
  behaviours:
    toxic:
      class_path: sparc3_lightning.data.RealToxicityPrompts
      init_args: {path: PATH, select_by: continuation, threshold: 0.5, num_prompts: null}
  contrast:
    toxic:
      class_path: sparc3_lightning.data.TextFile
      init_args: {path: PATH}
  price:
    text: {class_path: sparc3_lightning.data.TextFile, init_args: {path: PATH}}
  evaluation_prompts:
    class_path: sparc3_lightning.data.PromptFile
    init_args: {path: PATH, part: evaluation, on_too_long: refuse}
  evaluation_text:
    class_path: sparc3_lightning.data.WikiText2
    init_args: {path: PATH}
"""


def test_a_config_builds_it(tmp_path: Path, path: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("PATH", path))
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(SparC3DataModule, "data")
    parsed = parser.parse_args([f"--config={config}", "--data.batch_size=3"])
    data = parser.instantiate_classes(parsed).data
    assert isinstance(data.general["general_seed0"], C4)
    assert data.general["general_seed0"].crop == "random"
    assert data.behaviours["toxic"].num_prompts is None
    assert data.reference_names == ["general_seed0", "toxic", "toxic_contrast"]
    assert list(data.price) == ["text"]
    assert data.evaluation_prompts.on_too_long == "refuse"
    assert data.batch_size == 3


@pytest.mark.parametrize("old", ["crop: random", "select_by: continuation", "on_too_long: refuse"])
def test_a_config_with_a_wrong_choice_is_refused(old: str, tmp_path: Path, path: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("PATH", path).replace(old, f"{old.split()[0]} middle"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(SparC3DataModule, "data")
    with pytest.raises(Exception, match="middle"):
        parser.parse_args([f"--config={config}"])


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "..", "differential", "", "a\n"])
def test_set_names_are_directory_names(name: str, path: str) -> None:
    with pytest.raises(ValueError, match=r"set's name must be letters.*`data\.general`"):
        SparC3DataModule({name: C4(path)})


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"general": ["a"], "behaviours": ["a"]}, r"'a'\. Rename `data\.general\.a`"),
        ({"general": ["a_contrast"], "behaviours": ["a"], "contrast": ["a"]}, r"Rename `data\.general\.a_contrast`"),
        ({"behaviours": ["a"], "contrast": ["b"]}, r"one of \['a'\]\. Rename `data\.contrast\.b`"),
    ],
)
def test_a_name_is_of_one_set(roles: dict[str, list[str]], said: str, path: str) -> None:
    named: dict[str, Any] = {role: {name: C4(path) for name in names} for role, names in roles.items()}
    with pytest.raises(ValueError, match=said):
        SparC3DataModule(**named)


def test_the_sets_of_the_differential(path: str) -> None:
    """The general ones, unless the behaviour has a contrast of its own."""
    sets: dict[str, ReferenceSet] = {name: TextFile(path) for name in ("a", "b")}
    toxic: dict[str, ReferenceSet] = {"toxic": PromptFile(path)}
    data = SparC3DataModule(sets, toxic)
    assert data.differential_names() == (["a", "b"], "toxic")
    assert [data.key_of(name) for name in ("b", "toxic")] == ["data.general.b", "data.behaviours.toxic"]
    data = SparC3DataModule(sets, toxic, contrast=toxic)
    assert data.reference_names == ["a", "b", "toxic", "toxic_contrast"]
    assert data.differential_names() == (["toxic_contrast"], "toxic")
    assert data.key_of("toxic_contrast") == "data.contrast.toxic"
    for behaviours in ({}, sets):
        with pytest.raises(ValueError, match=r"`behaviours` must name one set .* Set `data.behaviours`"):
            SparC3DataModule(None, behaviours).differential_names()
    with pytest.raises(ValueError, match=r"Set `data\.general`, or `data\.contrast\.toxic`"):
        SparC3DataModule(None, toxic).differential_names()


def test_several_behaviours_have_a_differential_each(path: str) -> None:
    sets: dict[str, ReferenceSet] = {name: TextFile(path) for name in ("a", "b")}
    behaviours: dict[str, ReferenceSet] = {name: PromptFile(path) for name in ("insult", "threat")}
    data = SparC3DataModule(sets, behaviours, contrast={"threat": PromptFile(path)})
    assert data.differentials() == {"insult": ["a", "b"], "threat": ["threat_contrast"]}
    with pytest.raises(ValueError, match=r"must name one set .* got \['insult', 'threat'\].*take one"):
        data.differential_names()
    with pytest.raises(ValueError, match=r"that 'insult' is contrasted with, got none"):
        SparC3DataModule(None, behaviours, contrast={"threat": PromptFile(path)}).differentials()


def test_attributes_that_words_are_chosen_by(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([{"prompt": "a", "text": "a"}])
    sets = {"prompts": RealToxicityPrompts(path, attribute="insult"), "plain": WordsThatMatter(path)}
    data = SparC3DataModule(behaviours={**sets, "profanity": WordsThatMatter(path, attribute="obscene")})
    assert data.attributes() == {"profanity": "obscene"}, "a prompt's attribute is not the evaluator's scorer's"


def test_shared_samples_are_warned_of(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    texts = {"a": "xy", "b": "yz", "c": "w"}
    sets: dict[str, ReferenceSet] = {
        name: TextFile(write_jsonl([{"text": one} for one in text], f"{name}.jsonl")) for name, text in texts.items()
    }
    data = SparC3DataModule(sets).bind(context.tokenizer, 64)
    said = r"1 texts of `data\.general\.a` are also in `data\.general\.b`.*`num_seeds`"
    with pytest.warns(UserWarning, match=said):
        data.warn_of_shared_samples(["a", "b", "c"])
    with warnings.catch_warnings(action="error"):
        data.warn_of_shared_samples(["a", "c"])
    assert len(data.shared_texts(["a", "c"], ["b"])) == 1
    assert not data.shared_texts(["c"], ["a", "b"])
    behaviours = SparC3DataModule(behaviours=sets).bind(context.tokenizer, 64)
    said = r"1 texts of `data\.behaviours\.a` are also in `data\.behaviours\.b`\. Behaviours share neurons .*`among`"
    with pytest.warns(UserWarning, match=said):
        behaviours.warn_of_shared_samples(["a", "b"])


def test_price_is_neither_evaluated_on_nor_attributed(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    def text(rows: str) -> TextFile:
        return TextFile(write_jsonl(({"text": row.strip("_")} for row in rows), f"{rows}.jsonl"))

    sets: dict[str, ReferenceSet] = {"general": text("ab")}
    data = SparC3DataModule(sets, price={"own": text("ax_cy")}, evaluation_text=text("c_d")).bind(context.tokenizer, 64)
    assert data.price_rows == {"own": ["x", "", "y"]}
    data = SparC3DataModule(sets, price={"own": text("b_c")}, evaluation_text=text("c_d")).bind(context.tokenizer, 64)
    with pytest.raises(ValueError, match=r"all of 'own' is\. Set `data\.price\.own`"):
        assert data.price_rows


def test_without_a_price_text_it_is_documents_of_a_general_set_that_are_not_attributed(
    write_jsonl: WriteJsonl, context: LoadContext
) -> None:
    texts = [f"document {number:02d} " * 3 for number in range(60)]
    path = write_jsonl({"text": text} for text in texts)
    toxic = [f"toxic {number}" for number in range(4)]
    c4 = C4(path, num_samples=7, length=16, num_seeds=2)
    drawn = [texts[number] for number in shuffled(range(0, 60, 2), seed=0, buffer_size=10_000)]
    assert c4.documents(9) == drawn[:9], "in the order of the draw, of this seed alone"
    assert c4.documents(99) == drawn
    data = SparC3DataModule(
        {"file": TextFile(write_jsonl([{"text": "alone"}], "file.jsonl")), "c4": c4, "more": replace(c4, seed=1)},
        {"toxic": TextFile(write_jsonl(({"text": one} for one in [*toxic, drawn[9]]), "toxic.jsonl"))},
        evaluation_text=TextFile(write_jsonl([{"text": drawn[11]}], "evaluation.jsonl")),
    ).bind(context.tokenizer, 64)
    with mock.patch("sparc3_lightning.data.datamodule._PRICE_DOCUMENTS", 8):
        rows = data.price_rows
    assert rows == {"c4": [drawn[number] for number in (7, 8, 10, 12, 13, 14)]}
    attributed = {one for samples in data.reference_samples.values() for one in samples.fingerprints}
    assert len(attributed) == 1 + 7 + 7 + 5
    assert not attributed & {fingerprint(row) for row in rows["c4"]}


def test_all_documents_attributed_leave_no_price(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl({"text": f"document {number:02d}"} for number in range(6))
    data = SparC3DataModule({"c4": C4(path, num_samples=6, length=8, num_seeds=1)}).bind(context.tokenizer, 64)
    with pytest.raises(ValueError, match=r"all of 'c4' is\. Set `data\.price\.c4`"):
        assert data.price_rows
    nothing = SparC3DataModule({"file": TextFile(path)}).bind(context.tokenizer, 64)
    assert nothing.price_rows == {}


def test_a_refusal_names_the_set_s_key(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl([{"text": "a"}])
    short, absent = TextFile(path, num_samples=2), TextFile("nowhere.txt")
    data = SparC3DataModule({"own": short}, {"b": short}, {"b": short}, {"own": absent}, evaluation_text=absent)
    data.bind(context.tokenizer, 64)
    for name, key in (("own", "general.own"), ("b", "behaviours.b"), ("b_contrast", "contrast.b")):
        with pytest.raises(ValueError, match=rf"Lower `data\.{key}\.init_args\.num_samples`"):
            data._load(name)
    for name, key in (("price", "price.own"), ("evaluation_text", "evaluation_text"), ("val_text", "val_text")):
        with pytest.raises(FileNotFoundError, match=rf"Set `data\.{key}\.init_args\.path`"):
            data.check([name])
    for read, key in ((lambda: data.text_rows, "evaluation_text"), (lambda: data.val_rows, "evaluation_text")):
        with pytest.raises(FileNotFoundError, match=rf"Set `data\.{key}\.init_args\.path`"):
            read()


@pytest.mark.parametrize("option", ["batch_size", "max_tokens", "train_batch_size", "block_length"])
def test_a_count_that_is_too_small_names_its_own_key(option: str) -> None:
    with pytest.raises(ValueError, match=rf"`{option}` must be at least \d, got 0\. Set `data\.{option}`"):
        SparC3DataModule(**{option: 0})  # type: ignore[arg-type]
