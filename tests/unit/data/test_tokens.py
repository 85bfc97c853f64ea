"""Texts longer than the context: truncated on the left and counted, or refused."""

import warnings

import pytest
from transformers import PreTrainedTokenizerBase

from sparc3_lightning.data.tokens import encode, encode_samples, fit_texts, keep_last

TEXTS = [("a.txt, line 1", "abc"), ("a.txt, line 2", "0123456789")]


def test_samples_are_unpadded_and_need_no_padding_token(tokenizer: PreTrainedTokenizerBase) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples, num_truncated = encode_samples(tokenizer, TEXTS, 11, "truncate")
    assert [sample.tolist() for sample in samples] == [encode(tokenizer, text) for _, text in TEXTS]
    assert num_truncated == 0


def test_truncation_keeps_the_last_tokens_and_the_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts were left-truncated to 5 tokens"):
        samples, num_truncated = encode_samples(tokenizer, TEXTS, 5, "truncate")
    assert samples[1].tolist() == encode(tokenizer, "6789")
    assert samples[1][0] == tokenizer.bos_token_id
    assert num_truncated == 1


def test_truncation_without_bos(bare_tokenizer: PreTrainedTokenizerBase) -> None:
    assert keep_last(bare_tokenizer, [5, 6, 7, 8], 3) == [6, 7, 8]
    assert keep_last(bare_tokenizer, [5, 6, 7], 3) == [5, 6, 7]


def test_refusal_names_the_line(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"a\.txt, line 2: the text has 11 tokens, at most 5 fit.*on_too_long"):
        encode_samples(tokenizer, TEXTS, 5, "refuse")
    with pytest.raises(ValueError, match=r"a\.txt, line 2: the text has 11 tokens, at most 5 fit"):
        fit_texts(tokenizer, TEXTS, 5, "refuse")


def test_fitted_texts_are_the_longest_ends_that_fit(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts were left-truncated"):
        assert fit_texts(tokenizer, TEXTS, 5, "truncate") == (["abc", "6789"], 1)


def test_a_context_without_room_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="line 1: nothing of the text fits into 1 tokens"):
        fit_texts(tokenizer, TEXTS, 1, "truncate")


def test_a_text_without_tokens_is_refused(bare_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="line 9: the text has no tokens"):
        encode_samples(bare_tokenizer, [("a.txt, line 9", "")], 5, "truncate")
