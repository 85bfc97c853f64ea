"""Token ids as the model is to read them, and texts longer than the context: truncated and counted, or refused."""

import warnings
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sparc3_lightning.data.tokens import check_vocabulary, count_control, encode, encode_samples, fit_texts, keep_last

TEXTS = [("a.txt, line 1", "abc"), ("a.txt, line 2", "0123456789")]


def test_samples_are_unpadded_and_need_no_padding_token(tokenizer: PreTrainedTokenizerBase) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples, counts = encode_samples(tokenizer, TEXTS, 11, "truncate")
    assert [sample.tolist() for sample in samples] == [encode(tokenizer, text) for _, text in TEXTS]
    assert counts == {"num_truncated": 0, "num_trailing_eos": 0, "num_doubled_bos": 0, "num_control_tokens": 0}


def test_truncation_keeps_the_last_tokens_and_the_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts were left-truncated to 5 tokens"):
        samples, counts = encode_samples(tokenizer, TEXTS, 5, "truncate")
    assert samples[1].tolist() == encode(tokenizer, "6789")
    assert samples[1][0] == tokenizer.bos_token_id
    assert counts["num_truncated"] == 1


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


@pytest.mark.parametrize("max_tokens", [11, 5])
@pytest.mark.filterwarnings("ignore:1 of 2 texts were left-truncated")
def test_an_added_end_is_taken_off_and_counted(
    tokenizer: PreTrainedTokenizerBase, ending_tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> None:
    """What is explained follows the text's last token, not its end; and no room is lost to the end."""
    expected, _ = encode_samples(tokenizer, TEXTS, max_tokens, "truncate")
    samples, counts = encode_samples(ending_tokenizer, TEXTS, max_tokens, "truncate")
    assert [sample.tolist() for sample in samples] == [sample.tolist() for sample in expected]
    assert (counts["num_trailing_eos"], counts["num_control_tokens"]) == (2, 0)


def test_an_end_that_the_text_holds_stays(ending_tokenizer: PreTrainedTokenizerBase) -> None:
    samples, counts = encode_samples(ending_tokenizer, [("a.txt, line 1", "ab</s>")], 9, "truncate")
    assert ending_tokenizer.decode(samples[0]) == "<s>ab</s>"
    assert (counts["num_trailing_eos"], counts["num_control_tokens"]) == (1, 1)


def test_a_rendered_chat_prompt_begins_once(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [("a.txt, line 1", "<s>abc"), ("a.txt, line 2", "abc")]
    samples, counts = encode_samples(tokenizer, texts, 9, "truncate")
    assert samples[0].tolist() == samples[1].tolist() == encode(tokenizer, "abc")
    assert (counts["num_doubled_bos"], counts["num_control_tokens"]) == (1, 0)


def test_control_tokens_of_plain_text_are_counted_and_stay(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [("a.txt, line 1", "a <s>struck</s> b <s>x"), ("a.txt, line 2", "none")]
    samples, counts = encode_samples(tokenizer, texts, 30, "truncate")
    assert tokenizer.decode(samples[0]) == "<s>a <s>struck</s> b <s>x"
    assert counts["num_control_tokens"] == 2, "of this tokenizer </s> is none"
    with pytest.warns(UserWarning, match="left-truncated"):
        _, counts = encode_samples(tokenizer, texts, 4, "truncate")
    assert counts["num_control_tokens"] == 1, "what was cut off is not counted"


def test_the_unknown_is_no_control_token(fixtures: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fixtures / "stories260K")
    assert tokenizer.unk_token_id == 0
    assert count_control(tokenizer, [[1, 0, 7, 2, 1]]) == 2


def test_ids_without_a_row_are_refused_by_name() -> None:
    check_vocabulary([0, 9], 10, "prompt `a`")
    for ids, found in (([3, 10], "3 to 10"), ([-1, 2], "-1 to 2")):
        with pytest.raises(ValueError, match=f"prompt `a` must hold token ids between 0 and 9, got {found}.*model.tok"):
            check_vocabulary(ids, 10, "prompt `a`")
