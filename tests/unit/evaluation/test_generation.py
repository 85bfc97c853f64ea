"""Completions, against a slow loop that generates one at a time without a cache."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from sparc3_lightning.evaluation import Decoding, generate
from sparc3_lightning.evaluation.sampling import gumbel_noise, noise_key
from sparc3_lightning.metrics import Completion
from tests.tiny import TINY
from tests.unit.evaluation.tiny import VOCABULARY, TextPrompt, make_model


def completed(*args: Any, **options: Any) -> list[list[Completion]]:
    return generate(*args, **options).completions


SAMPLED = Decoding(max_new_tokens=12, temperature=0.9, top_p=0.8, num_completions=3, seed=5)
GREEDY = Decoding(max_new_tokens=12, temperature=0.0)


@torch.no_grad()
def slow(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[TextPrompt], decoding: Decoding
) -> list[list[list[int]]]:
    """Gumbel-max after temperature and top-p, one completion at a time, the whole text anew for every token."""
    found = []
    for prompt in prompts:
        completions = []
        for j in range(decoding.num_completions):
            ids = list(tokenizer(prompt.text)["input_ids"])
            start, key = len(ids), torch.tensor([noise_key(decoding.seed, prompt.id, j)])
            for step in range(decoding.max_new_tokens):
                logits = model(torch.tensor([ids])).logits[0, -1].double()
                if decoding.temperature > 0:
                    logits = nucleus(logits / decoding.temperature, decoding.top_p)
                    logits = logits + gumbel_noise(key, step, torch.arange(len(logits)))[0]
                token = int(logits.argmax())
                if token == tokenizer.eos_token_id:
                    break
                ids.append(token)
            completions.append(ids[start:])
        found.append(completions)
    return found


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest set of most likely tokens whose probability reaches top_p; the others are impossible."""
    probabilities, kept, reached = logits.softmax(0), torch.full_like(logits, -torch.inf), 0.0
    for token in probabilities.argsort(descending=True):
        if reached >= top_p:
            break
        kept[token] = logits[token]
        reached += float(probabilities[token])
    return kept


def ids_of(completions: Sequence[Sequence[Completion]]) -> list[list[list[int]]]:
    return [[item.token_ids for item in row] for row in completions]


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_completions_are_the_slow_ones_in_every_batch_shape(
    model: LlamaForCausalLM, tokenizer: Any, prompts: list[TextPrompt], decoding: Decoding, batch_size: int
) -> None:  # trap 8
    completions = completed(model, tokenizer, prompts, decoding, batch_size)
    assert ids_of(completions) == slow(model, tokenizer, prompts, decoding)
    assert [[(item.prompt, item.completion) for item in row] for row in completions] == [
        [(i, j) for j in range(decoding.num_completions)] for i in range(len(prompts))
    ]


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.usefixtures("wide_softmax")
def test_left_padding_moves_no_position(family: str, tokenizer: Any, prompts: list[TextPrompt]) -> None:
    """Learned positions too count from a prompt's first token, not from its padding's."""
    model: PreTrainedModel = TINY[family](dtype=torch.float64, vocab_size=VOCABULARY, eos_token_id=1)
    assert ids_of(completed(model, tokenizer, prompts, GREEDY, batch_size=64)) == slow(
        model, tokenizer, prompts, GREEDY
    )


def test_completions_differ_where_noise_does(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    rows = ids_of(completed(model, tokenizer, prompts, SAMPLED))
    assert all(len({tuple(ids) for ids in row}) > 1 for row in rows)
    other_seed = Decoding(12, 0.9, 0.8, 3, seed=6)
    assert ids_of(completed(model, tokenizer, prompts, other_seed)) != rows


def test_noise_follows_the_prompts_id_not_its_place(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    straight = ids_of(completed(model, tokenizer, prompts, SAMPLED))
    assert ids_of(completed(model, tokenizer, prompts[::-1], SAMPLED, batch_size=3)) == straight[::-1]
    assert ids_of(completed(model, tokenizer, prompts[2:4], SAMPLED)) == straight[2:4]


def test_a_pruned_neuron_that_does_nothing_changes_nothing(tokenizer: Any, prompts: Any) -> None:
    """Paired noise: only what the pruning changes may change."""
    model = make_model()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[:, 3] = 0
    before = completed(model, tokenizer, prompts, SAMPLED)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3] = 0
    assert completed(model, tokenizer, prompts, SAMPLED, batch_size=5) == before


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
def test_the_models_own_generation_config_is_not_used(
    model: LlamaForCausalLM, tokenizer: Any, prompts: Any, decoding: Decoding
) -> None:  # trap 15
    expected = ids_of(completed(model, tokenizer, prompts, decoding))
    own = GenerationConfig(
        do_sample=True, temperature=5.0, top_p=0.1, top_k=1, repetition_penalty=3.0, no_repeat_ngram_size=1,
        min_new_tokens=12, suppress_tokens=list(range(20, 40)), num_return_sequences=2, max_length=3, min_p=0.9,
    )  # fmt: skip
    model.generation_config = own
    assert ids_of(completed(model, tokenizer, prompts, decoding)) == expected
    assert model.generation_config is own


def test_every_end_token_ends_a_completion(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    long = completed(model, tokenizer, prompts, SAMPLED)
    stop = long[0][0].token_ids[3]
    model.generation_config = GenerationConfig(eos_token_id=[1, stop])
    short = completed(model, tokenizer, prompts, SAMPLED)
    expected = [[ids[: ids.index(stop)] if stop in ids else ids for ids in row] for row in ids_of(long)]
    assert ids_of(short) == expected
    assert [len(ids) for row in expected for ids in row] != [len(ids) for row in ids_of(long) for ids in row]


def test_a_completion_may_be_empty(model: LlamaForCausalLM, tokenizer: Any) -> None:
    first = completed(model, tokenizer, [TextPrompt("a", "w5")], GREEDY)[0][0].token_ids[0]
    model.generation_config = GenerationConfig(eos_token_id=first)
    assert completed(model, tokenizer, [TextPrompt("a", "w5")], GREEDY)[0][0] == Completion(0, 0, [], "")


def test_text_is_the_continuation_alone(model: LlamaForCausalLM, tokenizer: Any) -> None:
    """A prompt that the completion repeats word by word must stay in it: nothing is removed by text."""
    prompt = TextPrompt("a", "w7")
    logits = torch.full((60,), -50.0, dtype=torch.float64)
    logits[7] = 50.0
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.lm_head.bias = torch.nn.Parameter(logits)
    completion = completed(model, tokenizer, [prompt], Decoding(max_new_tokens=3))[0][0]
    assert completion.token_ids == [7, 7, 7]
    assert completion.text == "w7 w7 w7"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_does_not_end_before_its_least_length(
    model: LlamaForCausalLM, tokenizer: Any, prompts: Any, temperature: float
) -> None:
    """The model would end at once."""
    logits = torch.zeros(60, dtype=torch.float64)
    logits[1] = 50.0
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.lm_head.bias = torch.nn.Parameter(logits)
    lengths = {
        least: {len(one.token_ids) for of in completed(model, tokenizer, prompts, decoding) for one in of}
        for least in (0, 3, 5)
        for decoding in [Decoding(5, temperature, 1.0, min_new_tokens=least)]
    }
    assert lengths == {0: {0}, 3: {3}, 5: {5}}


def test_no_least_length_leaves_the_setting_as_it_was() -> None:
    """What was measured before there was one is found again."""
    assert "min_new_tokens" not in Decoding().setting()
    assert Decoding(min_new_tokens=2).setting() == asdict(Decoding(min_new_tokens=2))


@pytest.mark.parametrize("least", [-1, 51])
def test_a_least_length_out_of_range_is_refused(least: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to `max_new_tokens` = 50, got {least}"):
        Decoding(min_new_tokens=least)


def test_a_prompt_without_room_keeps_its_end_and_its_first_token(model: LlamaForCausalLM, tokenizer: Any) -> None:
    words = [f"w{3 + n}" for n in range(40)]
    kept = TextPrompt("long", " ".join(words[-19:]))  # 32 tokens of context - 12 new - 1 beginning-of-text
    whole = TextPrompt("long", " ".join(words))
    expected = completed(model, tokenizer, [kept], SAMPLED)
    assert completed(model, tokenizer, [whole], SAMPLED) == expected


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "at least one"),
        ([TextPrompt("a", "w5"), TextPrompt("a", "w6")], "ids of their own"),
        ([TextPrompt("a", "w5"), TextPrompt("b", " \n")], "prompt `b` is empty"),
    ],
)
def test_bad_prompts_are_refused(
    model: LlamaForCausalLM, tokenizer: Any, prompts: list[TextPrompt], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        completed(model, tokenizer, prompts, SAMPLED)


def test_a_completion_longer_than_the_context_is_refused(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    with pytest.raises(ValueError, match=r"room for a prompt in the model's 32 tokens, got 31"):
        completed(model, tokenizer, prompts, Decoding(max_new_tokens=31))


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"num_completions": 0}]
)
def test_bad_decoding_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`decoding` needs"):
        Decoding(**options)


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
def test_a_broken_model_is_an_error_not_a_text(
    model: LlamaForCausalLM, tokenizer: Any, prompts: Any, decoding: Decoding
) -> None:  # trap 16
    with torch.no_grad():
        model.lm_head.weight[4, 0] = torch.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        completed(model, tokenizer, prompts, decoding)
    assert model.generation_config.eos_token_id == 1


def test_dropout_is_off_meanwhile_and_training_mode_comes_back(tokenizer: Any, prompts: Any) -> None:
    model = make_model()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    expected = completed(model.eval(), tokenizer, prompts, SAMPLED)
    assert completed(model.train(), tokenizer, prompts, SAMPLED) == expected
    assert model.training
    assert model.model.layers[0].training


def test_progress_sees_every_batch(model: LlamaForCausalLM, tokenizer: Any, prompts: Any) -> None:
    seen: list[tuple[int, int, str]] = []

    def progress(items: Any, total: int, description: str) -> Any:
        seen.append((len(list(items)), total, description))
        return items

    completed(model, tokenizer, prompts, SAMPLED, batch_size=4, progress=progress)
    assert seen == [(6, 6, "generate")]
