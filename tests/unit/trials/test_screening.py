"""A run's screen: its price text, what was measured before, the recipe with what was measured."""

import csv
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import Timeout
from transformers import PreTrainedModel

from sparc3_lightning.data.samples import ReferenceSamples
from sparc3_lightning.data.tokens import starts_with_bos
from sparc3_lightning.evaluation import Decoding, Evaluator
from sparc3_lightning.evaluation.sampling import SCREEN_SEED
from sparc3_lightning.files import acquire, release
from sparc3_lightning.metrics import LexicalScorer
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.passages import Passage
from sparc3_lightning.pruning.recipe import Neuron, Recipe
from sparc3_lightning.pruning.screen import Joint, Meter, ScreenData, Screened, choose
from sparc3_lightning.statistics.p_values import PairedTest
from sparc3_lightning.trials.screening import (
    KeptFigures,
    ScoredResponses,
    Screen,
    check_chosen,
    describe_screen,
    predict_effects,
    price_passages,
    screened_recipe,
    word_passages,
    write_predictions,
    write_screen,
)
from tests.tiny import LAYERS, tiny_llama, tiny_samples
from tests.tiny import NEURONS as NEURONS_A_LAYER
from tests.tiny_files import tiny_tokenizer

DATA = ScreenData(
    behaviour=[Passage(ids, len(ids) - 1) for ids in tiny_samples((7, 3, 12, 9))],
    ordinary=[Passage(ids, len(ids) - 1) for ids in tiny_samples((5, 6), seed=3)],
    price=[Passage(ids) for ids in tiny_samples((12, 8), seed=5)],
)
NEURONS: list[Neuron] = [(layer, index) for index in range(NEURONS_A_LAYER) for layer in range(LAYERS)]
CANDIDATES = Recipe(NEURONS, [-1.0 / (1 + place) for place in range(len(NEURONS))])


def test_words_are_scored_and_nothing_before_them() -> None:
    ids, following = tiny_samples((4, 2)), tiny_samples((1, 3), seed=1)
    passages = word_passages(ReferenceSamples(ids, {}, ["a", "b"], following=following))
    assert [one.num_scored for one in passages] == [1, 3]
    assert passages[1].ids.tolist() == [*ids[1].tolist(), *following[1].tolist()]
    assert word_passages(ReferenceSamples(ids, {}, ["a", "b"])) == []


@pytest.mark.parametrize("num_tokens", [1, 255, 256, 700])
def test_as_many_price_tokens_as_asked(num_tokens: int) -> None:
    rows = ["a" * 300, " ", "b" * 600]
    passages, _ = price_passages("text", rows, lambda row: [*row.encode()], num_tokens, 1000)
    assert sum(one.num_scored for one in passages) == num_tokens
    assert max(len(one.ids) for one in passages) <= 256


def test_the_price_is_told_by_windows_from_all_over_the_text() -> None:
    rows = ["".join(f"{200 * row + place:05}" for place in range(200)) for row in range(20)]
    text = "\n\n".join(rows)
    found = price_passages("text", rows, lambda joined: [*joined.encode()], 4 * 255, 1000)
    places = [[text.index("".join(map(chr, one.ids.tolist()))) // 256 for one in some] for some in found]
    assert places == [[0, 19, 39, 59], [10, 30, 49, 69]], "what has chosen, and what has not"


@pytest.mark.parametrize(("num_rows", "lengths"), [(1, []), (2, [7]), (9, [256, 256])])
def test_of_short_texts_little_or_nothing_is_left_that_has_not_chosen(num_rows: int, lengths: list[int]) -> None:
    rows = ["a" * 254] * num_rows if num_rows > 2 else ["a" * (512 + 7 * (num_rows - 1))]
    chosen, unseen = price_passages("text", rows, lambda joined: [*joined.encode()], 2 * 255, 1000)
    assert [len(one.ids) for one in chosen] == [256, 256]
    assert [len(one.ids) for one in unseen] == lengths


def test_windows_fit_into_a_short_context() -> None:
    passages, _ = price_passages("text", ["a" * 300], lambda row: [*row.encode()], 200, 32)
    assert max(len(one.ids) for one in passages) == 32
    assert sum(one.num_scored for one in passages) == 200


def test_too_little_price_text_says_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"`data.price.text` must hold at least 9 tokens .* got 5"):
        price_passages("text", ["abcd", ""], lambda row: [*row.encode()], 9, 1000)


def run_screen(figures: KeptFigures) -> tuple[Recipe, list[Screened], Joint]:
    model, options = tiny_llama(dtype=torch.float64), Screen(price_weight=0.1)
    with figures:
        return screened_recipe(model, CANDIDATES, 3, DATA, options, figures, lambda items, total, what: items)


def screened(figures: KeptFigures) -> Recipe:
    return run_screen(figures)[0]


def test_a_killed_screen_measures_only_what_was_missing(tmp_path: Path) -> None:
    key = {**DATA.key(), "model": "m"}
    whole = screened(KeptFigures(tmp_path / "whole", key))
    asked: list[Neuron] = []

    class Killed(KeptFigures):
        def keep(self, what, neuron, measure):  # type: ignore[no-untyped-def] # as its parent's
            asked.append(neuron)
            if len(asked) == 5:
                raise KeyboardInterrupt
            return super().keep(what, neuron, measure)

    with pytest.raises(KeyboardInterrupt):
        screened(Killed(tmp_path, key))
    (path,) = tmp_path.glob("screen-*.jsonl")
    assert path.read_text().count("effect") == 4
    with path.open("a") as file:
        file.write('\n["effect", [1, 5], [0.25')  # killed while it wrote

    class Counting(KeptFigures):
        measured = 0

        def keep(self, what, neuron, measure):  # type: ignore[no-untyped-def] # as its parent's
            def counted() -> list[float]:
                Counting.measured += what == "effect"
                return measure()  # type: ignore[no-any-return]

            return super().keep(what, neuron, counted)

    assert screened(Counting(tmp_path, key)) == whole
    assert Counting.measured == len(NEURONS) - 4
    assert screened(Counting(tmp_path, key)) == whole
    assert Counting.measured == len(NEURONS) - 4, "a run that is done measures nothing"


def test_other_data_are_measured_anew(tmp_path: Path) -> None:
    def kept(data: ScreenData, figures: list[float]) -> list[float]:
        with KeptFigures(tmp_path, {**data.key(), "model": "m"}) as known:
            return known.keep("effect", (0, 1), lambda: figures)

    assert kept(DATA, [1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert kept(DATA, []) == [1.0, 2.0, 3.0]
    assert kept(ScreenData(DATA.behaviour, DATA.ordinary, DATA.price[:1]), []) == []


def test_another_run_with_the_same_key_waits(tmp_path: Path) -> None:
    with KeptFigures(tmp_path, {}):
        (lock,) = tmp_path.glob(".screen-*.lock")
        with pytest.raises(Timeout):
            acquire(lock)
    release(acquire(lock))


def test_the_recipe_keeps_what_was_measured(tmp_path: Path) -> None:
    recipe = screened(KeptFigures(tmp_path, {}))
    assert 1 <= len(recipe.neurons) <= 3
    assert {*recipe.neurons} <= {*NEURONS}
    values = [float(str(one["value"])) for one in recipe.measured]
    assert min(values) > 0
    assert values == sorted(values, reverse=True)
    assert recipe.options["screen"]["joint"]["num_neurons"] == len(recipe.neurons)
    assert recipe.options["screen"]["num_asked"] == 3
    assert (recipe.options["screen"]["unit"], recipe.options["screen"]["price_weight"]) == ("nats", 0.1)
    assert Recipe.load(recipe.save(tmp_path)) == recipe
    entry = json.loads((tmp_path / "pruned_neurons.json").read_text())["neurons"][0]
    figures = {"effect", "confirmed", "ordinary", "price", "value", "unit"}
    assert {"layer", "index", "score", "factor", *figures} == entry.keys()


def test_the_table_lists_every_candidate(tmp_path: Path) -> None:
    recipe, found, joint = run_screen(KeptFigures(tmp_path, {}))
    lines = write_screen(tmp_path, CANDIDATES, found, recipe).read_text().splitlines()
    assert len(lines) == 1 + len(NEURONS)
    chosen = [line for line in lines[1:] if not line.endswith(",")]
    assert {tuple(map(int, line.split(",")[:2])) for line in chosen} == {*recipe.neurons}
    assert {line.split(",")[-2] for line in lines[1:]} == {"nats"}
    told = describe_screen(found, joint, 3, "nats")
    assert f"{joint.num} of the 3 asked for were chosen" in told
    assert f"Together they lower the behaviour's words by {joint.effect:.3f} nats" in told


PLANTED = (1, 5)
SAMPLES = ReferenceSamples(tiny_samples((5, 3, 6, 4)), {}, ["a", "b", "c", "d"])


def planted_model() -> PreTrainedModel:
    """One neuron makes it say w9, whatever the prompt."""
    model = tiny_llama(dtype=torch.float64, mlp_bias=True)
    mlp, index = model.model.layers[PLANTED[0]].mlp, PLANTED[1]
    with torch.no_grad():
        for layer in (mlp.gate_proj, mlp.up_proj):
            layer.weight[index] = 0.0
            layer.bias[index] = 3.0
        mlp.down_proj.weight[:, index] = 20 * model.lm_head.weight[12] / model.model.norm.weight
    return model


def responses(seed: int = 0, words: tuple[str, ...] = ("w9",), num_completions: int = 2) -> ScoredResponses:
    decoding = Decoding(max_new_tokens=4, temperature=1.0, top_p=1.0, num_completions=num_completions, seed=seed)
    evaluator = Evaluator(LexicalScorer([*words]), decoding, toxicity_protocol="custom", batch_size=3)
    return ScoredResponses(evaluator, tiny_tokenizer(), SAMPLES, "data.behaviours.toxic")


def test_without_words_the_fall_of_the_evaluators_score_finds_a_planted_neuron(tmp_path: Path) -> None:
    model, behaviour = planted_model(), responses()
    candidates = Recipe([(0, 1), PLANTED, (1, 2), (0, 9)], [-4.0, -3.0, -2.0, -1.0])
    data = ScreenData(behaviour, price=DATA.price)
    with KeptFigures(tmp_path, data.key()) as kept:
        recipe, found, joint = screened_recipe(
            model, candidates, 2, data, Screen(price_weight=0.0), kept, lambda items, total, what: items
        )
    assert recipe.neurons[0] == PLANTED

    def by_hand(*neurons: Neuron) -> torch.Tensor:
        """Mean score of each prompt, by the evaluator itself with the screen's luck."""
        decoding = replace(behaviour.evaluator.decoding, seed=SCREEN_SEED)
        with apply_recipe(model, Recipe([*neurons]), check_base=False) if neurons else nullcontext():
            rows = behaviour.evaluator.toxicity(model, tiny_tokenizer(), behaviour.prompts, decoding=decoding).prompts
        return torch.tensor([[item.scores["toxicity"] for item in row.completions] for row in rows]).mean(1)

    assert by_hand().min() > 0, "it says w9 to every prompt"
    for one in found:
        fall = by_hand() - by_hand(one.candidate)
        assert (one.effect, one.confirmed) == pytest.approx((fall[::2].mean().item(), fall[1::2].mean().item()))
        assert one.ordinary == 0
    assert min(found[1].effect, found[1].confirmed) >= 0.5
    assert joint.effect == pytest.approx((by_hand() - by_hand(*recipe.neurons)).mean().item())
    assert {one["unit"] for one in recipe.measured} == {"toxicity"}
    told = describe_screen(found, joint, 2, data.unit)
    assert "lower the mean toxicity of the behaviour's completions by both halves" in told
    assert "nats" not in told


def test_prompts_are_what_was_attributed() -> None:
    tokenizer, found = tiny_tokenizer(), responses().prompts
    assert [one.id for one in found] == SAMPLES.sample_ids
    for one, ids in zip(found, SAMPLES.ids, strict=True):
        assert tokenizer(one.text)["input_ids"] == ids.tolist()[starts_with_bos(tokenizer, ids.tolist()) :]


def test_a_chats_control_tokens_stay_and_its_beginning_is_not_doubled() -> None:
    tokenizer = tiny_tokenizer()
    control = tokenizer.convert_tokens_to_ids(tokenizer.unk_token)
    ids = torch.tensor([tokenizer.bos_token_id, 7, control, 8, 9])
    samples = replace(SAMPLES, ids=[ids, *SAMPLES.ids[1:]])
    found = ScoredResponses(responses().evaluator, tokenizer, samples, "data.behaviours.toxic").prompts[0]
    assert tokenizer(found.text)["input_ids"] == ids[1:].tolist()


def test_kept_figures_depend_on_what_completes_and_scores() -> None:
    key = responses().key()
    assert responses(seed=1).key() == key, "the luck is the screen's own"
    assert responses(num_completions=3).key() != key
    assert responses(words=("w8",)).key() != key


def test_what_a_nat_of_price_must_bring() -> None:
    assert [Screen().weight(unit) for unit in ("nats", "toxicity")] == [10.0, 1.0]
    assert Screen(price_weight=0.0).weight("toxicity") == 0.0


def test_prompts_need_a_scorer() -> None:
    message = r"follow the samples of `data\.behaviours\.toxic`.*`model\.evaluator\.init_args\.scorer`"
    with pytest.raises(ValueError, match=message):
        ScoredResponses(Evaluator(), tiny_tokenizer(), SAMPLES, "data.behaviours.toxic")


def test_a_sample_without_text_is_named() -> None:
    samples = replace(SAMPLES, ids=[torch.tensor([1, 2]), *SAMPLES.ids[1:]])
    with pytest.raises(ValueError, match=r"sample `a` of `data\.behaviours\.toxic` holds no text"):
        ScoredResponses(responses().evaluator, tiny_tokenizer(), samples, "data.behaviours.toxic")


def test_ordinary_words_cannot_be_set_against_a_score() -> None:
    with pytest.raises(ValueError, match=r"`ordinary` must be empty where responses are scored, got 2"):
        ScreenData(responses(), DATA.ordinary)


def test_logits_that_break_are_an_error() -> None:
    model = planted_model()
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        Meter(model, ScreenData(responses()))


def made_up(effects: list[tuple[float, float]]) -> list[Screened]:
    return [Screened((0, place), *both, ordinary=0.0) for place, both in enumerate(effects)]


def test_a_method_whose_order_is_that_of_the_effects(tmp_path: Path) -> None:
    halves = [(9.0, 7.0), (5.0, 6.0), (4.0, 2.0), (1.0, 2.0), (0.0, -1.0), (-1.0, -1.5)]
    scores = {
        "reverse": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
        "constant": [0.5] * 6,
        "partial": [math.nan, math.nan, 1.0, 2.0, 3.0, 4.0],
        "lrp": [-6.0, -5.0, -4.0, -3.0, -2.0, -1.0],  # the most negative is the most specific
    }
    found = predict_effects(made_up(halves), scores, "lrp", 2, PairedTest(num_draws=200))
    assert list(found.methods) == ["lrp", "reverse", "constant", "partial"]
    figures = {key: (one.num_units, one.correlation, one.recall) for key, one in found.methods.items()}
    assert figures["lrp"] == (6, pytest.approx(1), 1)
    assert figures["constant"] == (6, None, pytest.approx(2 / 6))
    assert figures["partial"] == (4, pytest.approx(1), 1)
    assert figures["reverse"] == (6, pytest.approx(-1), 0)
    assert found.halves.correlation == pytest.approx(0.986, abs=1e-3)

    with write_predictions(tmp_path, found).open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*found.methods, "other_half"]
    assert [key for key, row in rows.items() if row["proposed"] == "True"] == ["lrp"]
    assert rows["constant"]["correlation"] == rows["constant"]["p_value"] == rows["constant"]["correlation_low"] == ""
    assert rows["constant"]["missing"] == "all scores are equal: they have no order"
    assert float(rows["lrp"]["recall_by_chance"]) == pytest.approx(2 / 6)
    assert float(rows["other_half"]["recall"]) == 1


def test_halves_can_disagree() -> None:
    found = predict_effects(made_up([(3.0, 0.0), (2.0, 1.0), (1.0, 2.0), (0.0, 4.0)]), {"lrp": [4, 3, 2, 1]}, "lrp", 2)
    assert found.halves.correlation == pytest.approx(-1)


def test_no_candidate_worth_its_price(tmp_path: Path) -> None:
    class Useless(KeptFigures):
        def keep(self, what, neuron, measure):  # type: ignore[no-untyped-def] # as its parent's
            return [0.5, -0.1, 0.0]

    recipe, found, joint = run_screen(Useless(tmp_path, {}))
    assert (recipe.neurons, joint.num) == ([], 0)
    lines = write_screen(tmp_path, CANDIDATES, found, recipe).read_text().splitlines()
    assert len(lines) == 1 + 48, "by what else would one set the weight?"
    with pytest.raises(ValueError, match=r"none of the 48 candidates .*best value is -0\.1, .*num_candidates"):
        check_chosen(recipe, found)


def test_even_the_first_costs_too_much(tmp_path: Path) -> None:
    with KeptFigures(tmp_path, {}) as figures:
        recipe, found, _ = screened_recipe(
            tiny_llama(dtype=torch.float64), CANDIDATES, 3, DATA, Screen(price_weight=0.0, max_price=0.0), figures,
            lambda items, total, what: items,
        )  # fmt: skip
    first = choose(found, 1, 0.0)[0]
    assert first.price is not None
    assert first.price > 0, "else the case is none"
    with pytest.raises(ValueError, match=rf"costs, {math.expm1(first.price):.2%} of perplexity, got 0\.00%"):
        check_chosen(recipe, found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, r"Set `PruningCallback\.init_args\.screen\.num_candidates`"),
        ({"max_price": -0.1}, r"Set `PruningCallback\.init_args\.screen\.max_price`"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Screen(**options)  # type: ignore[arg-type]
