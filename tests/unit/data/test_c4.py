"""C4: both crops, disjoint seeds, and documents that are too short."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sparc3_lightning.data import C4, LoadContext
from sparc3_lightning.data.c4 import shuffled
from sparc3_lightning.data.tokens import encode

WriteJsonl = Callable[..., str]


def document(number: int) -> str:
    """Make a document of 40 bytes whose every 9-byte stretch tells where it is from."""
    return "".join(f"{number:03d}{place:01x}" for place in range(10))


@pytest.fixture
def path(write_jsonl: WriteJsonl) -> str:
    return write_jsonl({"text": document(number)} for number in range(30))


def texts(c4: C4, context: LoadContext) -> list[str]:
    return [context.tokenizer.decode(ids, skip_special_tokens=True) for ids in c4.load(context).ids]


def test_head_is_the_beginning_after_bos(path: str, context: LoadContext) -> None:
    samples = C4(path, num_samples=10, length=16).load(context)
    assert {len(ids) for ids in samples.ids} == {16}
    assert {int(ids[0]) for ids in samples.ids} == {context.tokenizer.bos_token_id}
    for ids, name in zip(samples.ids, samples.sample_ids, strict=True):
        assert ids.tolist() == encode(context.tokenizer, document(int(name.removeprefix("row-"))))[:16]
    assert samples.source["bos"] is True
    assert samples.source["crop"] == "head"


def test_random_is_any_part_without_bos(path: str, context: LoadContext) -> None:
    c4 = C4(path, num_samples=10, length=16, crop="random")
    samples = c4.load(context)
    starts = set()
    for text, name in zip(texts(c4, context), samples.sample_ids, strict=True):
        assert len(text) == 16
        starts.add(document(int(name.removeprefix("row-"))).index(text))
    assert len(starts) > 3, "the crops must not all start at the same place"
    assert samples.source["bos"] is False


def test_random_crops_reach_both_ends(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl({"text": f"{number:03d}abcdef"} for number in range(64))
    c4 = C4(path, num_samples=64, length=8, num_seeds=1, crop="random")
    ends = {text[-1] for text in texts(c4, context)}
    assert ends == {"e", "f"}


@pytest.mark.parametrize(("crop", "add_bos"), [("head", False), ("random", True)])
def test_bos_can_be_chosen(path: str, context: LoadContext, crop: Any, add_bos: bool) -> None:
    samples = C4(path, num_samples=3, length=16, crop=crop, add_bos=add_bos).load(context)
    assert {int(ids[0]) == context.tokenizer.bos_token_id for ids in samples.ids} == {add_bos}
    assert {len(ids) for ids in samples.ids} == {16}
    assert samples.source["bos"] is add_bos


def test_a_tokenizer_without_bos(path: str, bare_tokenizer: PreTrainedTokenizerBase) -> None:
    context = LoadContext(bare_tokenizer, 64)
    samples = C4(path, num_samples=3, length=16).load(context)
    assert {len(ids) for ids in samples.ids} == {16}
    assert samples.source["bos"] is False
    with pytest.raises(ValueError, match="`add_bos: true` needs a tokenizer with a beginning-of-text token"):
        C4(path, num_samples=3, length=16, add_bos=True).load(context)


@pytest.mark.parametrize("skip_rows", [0, 7])
def test_seeds_draw_disjoint_documents(path: str, context: LoadContext, skip_rows: int) -> None:
    names = [
        set(C4(path, num_samples=7, length=16, seed=seed, skip_rows=skip_rows).load(context).sample_ids)
        for seed in range(3)
    ]
    assert [len(seed) for seed in names] == [7, 7, 7]
    assert len(set.union(*names)) == 21
    assert all(int(name.removeprefix("row-")) >= skip_rows for seed in names for name in seed)


def test_as_text_it_gives_whole_documents_each_once(path: str, context: LoadContext) -> None:
    """Also those that are too short for a sample."""
    seeds = [C4(path, num_samples=10, length=64, seed=seed).load_rows() for seed in range(3)]
    assert sorted(row for rows in seeds for row in rows) == [document(number) for number in range(30)]
    assert seeds[0][:4] == C4(path, num_samples=4).load_rows()
    skipping = C4(path, num_samples=3, num_seeds=1, skip_rows=27)
    assert sorted(skipping.load_rows()) == [document(number) for number in (27, 28, 29)]
    with pytest.raises(ValueError, match=r"`num_samples` is 4, but .* only 3 distinct documents .* 27 skipped rows"):
        replace(skipping, num_samples=4).load_rows()


def test_the_same_document_twice_belongs_to_one_seed(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl({"text": document(number // 2)} for number in range(12))
    drawn = [texts(C4(path, num_samples=2, length=16, seed=seed), context) for seed in range(3)]
    assert len({text for seed in drawn for text in seed}) == 6


def test_same_seed_same_hash_other_seed_other_hash(path: str, context: LoadContext) -> None:
    first, again, other = (C4(path, num_samples=5, length=16, seed=seed).load(context).token_hash for seed in (0, 0, 1))
    assert first == again != other


def test_draw_is_shuffled_and_not_the_first_rows(path: str, context: LoadContext) -> None:
    names = C4(path, num_samples=5, length=16).load(context).sample_ids
    assert names != [f"row-{number}" for number in (0, 3, 6, 9, 12)]


def test_only_documents_longer_than_the_length_are_taken(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl({"text": "x" * size} for size in (15, 16, 17, 18, 0, 40))
    samples = C4(path, num_samples=3, length=16, num_seeds=1).load(context)
    assert set(samples.sample_ids) == {"row-2", "row-3", "row-5"}
    longer = C4(path, num_samples=1, length=16, num_seeds=1, min_tokens=30).load(context)
    assert longer.sample_ids == ["row-5"]


def test_a_least_length_beside_another_set_s_lengths(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl({"text": "x" * size} for size in (8, 20, 9, 30, 10))
    context = replace(context, lengths_of=lambda name: [5, 6])

    def drawn(min_tokens: int | None) -> C4:
        return C4(path, length_like="toxic", num_seeds=1, crop="random", min_tokens=min_tokens)

    samples = drawn(20).load(context)
    assert set(samples.sample_ids) == {"row-1", "row-3"}
    assert sorted(map(len, samples.ids)) == [5, 6]
    assert samples.source["min_tokens"] == 20
    assert drawn(None).load(context).source["min_tokens"] is None
    with pytest.raises(ValueError, match=r"documents for only 1 .* next, of [56] tokens \(`min_tokens`: 21\)"):
        drawn(21).load(context)
    with pytest.raises(ValueError, match="`min_tokens` must be at least 1, got 0"):
        drawn(0)


def test_too_few_documents_are_an_error_with_the_count(path: str, context: LoadContext) -> None:
    with pytest.raises(ValueError, match=r"`num_samples` is 11, but .*rows\.jsonl has only 10 distinct .* seed 1 of 3"):
        C4(path, num_samples=11, length=16, seed=1).load(context)


def test_samples_longer_than_the_context_are_refused(path: str, context: LoadContext) -> None:
    with pytest.raises(ValueError, match="`length` must be at most the model's context of 64 tokens, got 128"):
        C4(path, num_samples=1, length=128).load(context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 3}, "`seed` must be between 0 and `num_seeds` - 1 = 2, got 3"),
        ({"seed": -1}, "`seed` must be between 0"),
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"min_tokens": 2047}, "`min_tokens` must be at least 2048, got 2047"),
        ({"skip_rows": -1}, "`skip_rows` must be at least 0"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        C4(**options)


def test_wrong_column_is_named_with_its_line(path: str, context: LoadContext) -> None:
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: there is no column `body`, only \['text'\]"):
        C4(path, num_samples=1, length=16, text_column="body").load(context)


def test_the_hub_is_read_only_as_far_as_needed(monkeypatch: pytest.MonkeyPatch, context: LoadContext) -> None:
    read = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        for number in range(100_000):
            read.append(number)
            yield {"text": document(number % 1000) + str(number)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    samples = C4(num_samples=8, length=16, shuffle_buffer=20).load(context)
    assert len(samples) == 8
    assert len(read) < 3 * (20 + 8 + 2)
    assert samples.source["dataset"] == "allenai/c4"


def test_shuffle_loses_and_repeats_nothing() -> None:
    for buffer_size in (1, 7, 100):
        order = list(shuffled(range(50), seed=1, buffer_size=buffer_size))
        assert sorted(order) == list(range(50))
    assert order != list(range(50))
    assert order != list(shuffled(range(50), seed=2, buffer_size=100))


def test_three_seeds_of_the_real_sample(fixtures: Path) -> None:
    context = LoadContext(AutoTokenizer.from_pretrained(fixtures / "realtext_lm"), 128)
    path = str(fixtures / "c4_sample" / "c4.jsonl")
    seeds = [C4(path, length=128, seed=seed, skip_rows=1000).load(context) for seed in range(3)]
    rows = [int(name.removeprefix("row-")) for seed in seeds for name in seed.sample_ids]
    assert len(set(rows)) == 3 * 128
    assert min(rows) >= 1000
    assert {len(ids) for seed in seeds for ids in seed.ids} == {128}
    assert {int(ids[0]) for seed in seeds for ids in seed.ids} == {context.tokenizer.bos_token_id}
    shorter = replace(context, max_length=64)
    with pytest.raises(ValueError, match="context of 64"):
        C4(path, length=128).load(shorter)


@pytest.mark.parametrize("crop", ["head", "random"])
def test_a_document_that_begins_itself_begins_once(write_jsonl: WriteJsonl, context: LoadContext, crop: Any) -> None:
    rows = write_jsonl({"text": f"<s>{number:03d}a<s>defg"} for number in range(3))
    samples = C4(rows, num_samples=3, length=9, num_seeds=1, min_tokens=9, crop=crop, add_bos=True).load(context)
    texts = [context.tokenizer.decode(ids) for ids in samples.ids]
    if crop == "head":
        assert sorted(texts) == [f"<s>{number:03d}a<s>def" for number in range(3)]
        assert samples.source["num_doubled_bos"] == 3
    assert {text.count("<s>") for text in texts} == {2}
    assert samples.source["num_control_tokens"] == 3
    assert samples.source["num_trailing_eos"] == 0
