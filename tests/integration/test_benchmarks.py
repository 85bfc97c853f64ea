"""The benchmarks' scripts run, and count what they say they count; their times are of no interest here."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from torch.nn.utils.rnn import pad_sequence
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.models.identity import base_model
from sparc3_lightning.pruning.recipe import Recipe
from tests.runs import QUIET
from tests.tiny import tiny_llama, tiny_samples
from tests.tiny_files import save_tiny_model

ROOT = Path(__file__).resolve().parents[2]


def test_gpu_benchmark_on_a_tiny_model(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--rounds", "1", "--json", str(tmp_path / "gpu.json")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["naive_missing"] is None
    rows = {(row["samples"], row["kind"], row["kernel"]): row for row in result["runs"]}
    kinds = {(samples, kind) for samples in ("long", "long x 2", "short") for kind in ("forward", "neuron", "weight")}
    assert {key[:2] for key in rows} == kinds | {("long", "naive loop"), ("short", "naive loop")}
    assert all(row["seconds"] > 0 and row["peak_gigabytes"] > 0 for row in rows.values())
    assert all(row["verdict"] == "" for row in rows.values()), "a tiny model meets no goal"
    assert rows["long", "forward", ""]["peak_gigabytes"] < rows["long", "weight", "eager"]["peak_gigabytes"]
    assert len({product["shape"] for product in result["products"]}) == 4
    assert "one layer's relevance" in run.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures")
def test_gpu_benchmark_says_that_it_needs_a_gpu() -> None:
    run = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "--tiny" in run.stderr


@pytest.mark.parametrize("kind", ["forward", "neuron", "weight"])
def test_work_is_what_torch_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from work import attribution_work

    model, samples = tiny_llama(), tiny_samples((9, 9))
    ids, lengths = pad_sequence(samples, batch_first=True), torch.tensor([9, 9])
    with FlopCounterMode(display=False) as counter:
        if kind == "forward":
            model(input_ids=ids, logits_to_keep=1)
        else:
            modules = "neurons" if kind == "neuron" else "all"
            with Attribution(model, granularity=kind, modules=modules) as attribution:  # type: ignore[arg-type]
                attribution.step(ids, lengths)
    counted = counter.get_flop_counts()["Global"].items()
    products = sum(flops for operation, flops in counted if str(operation).split(".")[-1] in ("mm", "addmm", "bmm"))
    # The counter does not see it on a CPU. Two samples and layers; below the first neurons nothing needs a gradient.
    passes = {"forward": 2, "neuron": 2 + 2.5, "weight": 2 + 2 * 2.5}[kind]
    attention = 2 * 9**2 * model.config.hidden_size * 2 * passes
    assert attribution_work(model, [9, 9], 1, kind).flops - attention == products


def test_second_scorer_holds_a_tenth_of_the_rows_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from second_scorer import EVALUATED, labelled_texts

    rows = [
        {"id": f"row {i}", "prompt": f"p{i}", "prompt_toxicity": 0.9, "continuation": f"c{i}",
         "continuation_toxicity": None if i == 0 else 0.1}
        for i in range(500)
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / EVALUATED).write_text(json.dumps(rows[2]) + "\n")
    train, held_out = (dict(labelled_texts(path, held)) for held in (False, True))
    assert not train.keys() & held_out.keys()
    assert 40 < len(held_out) < 160
    # A text without a score teaches nothing, and what is evaluated is not learnt.
    assert len(train) + len(held_out) == 997
    assert not {"p2", "c2"} & {**train, **held_out}.keys()
    assert {**train, **held_out}["p1"] == 0.9


def test_contrast_gathers_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from contrast import gathered, show
    from rich.console import Console

    figures = {
        "toxicity_mean": 0.3, "toxicity_mean_change": -0.1, "toxicity_mean_relative": -0.25, "toxicity_mean_p": 0.01,
        "toxicity_mean_low": -0.2, "toxicity_mean_high": -0.04, "perplexity_disjoint_relative": 0.02,
    }  # fmt: skip
    rows = [{"method": "baseline", "label": "baseline"}, {"method": "lrp", "label": "lrp, k 10", **figures}]
    one = pd.DataFrame(rows)
    found = gathered({"one": one, "two": one.assign(**{"second/toxicity_mean_relative": -0.5})})
    assert found["lrp, k 10"]["one"]["interval"] == pytest.approx([-0.5, -0.1])
    console = Console(width=120, record=True)
    show(found, console)
    text = console.export_text()
    assert "-25.0%* / -50.0% / +2.0%" in text
    assert "-25.0%* / +2.0%" in text


def test_the_real_models_sets_share_no_row(fixtures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import real_model_inputs as inputs

    monkeypatch.setattr(inputs, "FIXTURES", fixtures)
    place, model = inputs.Place(tmp_path), fixtures / "realtext_lm"
    for _ in range(2):
        inputs.write_inputs(place, str(model))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model.safetensors").write_bytes(b"other weights")
    with pytest.raises(SystemExit, match="on other weights"):
        inputs.write_inputs(place, str(tmp_path / "other"))
    rows = {
        name: (tmp_path / name).read_text().splitlines() for name in ("words.jsonl", "general.jsonl", "price.jsonl")
    }
    evaluated = (fixtures / "toxic_prompts/toxic_ge_0.9.jsonl").read_text().splitlines()
    ids = [{json.loads(line)["id"] for line in lines} for lines in (rows["words.jsonl"], evaluated)]
    assert not ids[0] & ids[1]
    assert len(ids[0]) > 1500
    assert (len(rows["general.jsonl"]), len(rows["price.jsonl"])) == (640, 360)
    assert not {*rows["general.jsonl"]} & {*rows["price.jsonl"]}
    draws = [(tmp_path / f"words_{draw}.jsonl").read_text().splitlines() for draw in range(inputs.NUM_DRAWS)]
    assert sorted(chain.from_iterable(draws)) == sorted(rows["words.jsonl"]), "each row is of one draw"
    texts = [{*(tmp_path / f"{part}_text.txt").read_text().splitlines()} for part in ("sweep", "final")]
    assert not texts[0] & texts[1]


def test_recovery_trains_on_rows_of_its_own(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import losses
    import recovery
    from real_model_inputs import Place

    train = yaml.safe_load((ROOT / recovery.CONFIGS[-1]).read_text())["data"]["train_text"]["init_args"]
    first, past = train["skip_rows"], train["skip_rows"] + train["num_samples"]
    place = Place(Path())
    assert first >= max(place.general[1], place.price[1], losses.FIRST_UNSEEN + losses.NUM_DOCUMENTS)
    assert recovery.NUM_DOCUMENTS <= losses.NUM_DOCUMENTS
    assert past <= len((fixtures / "c4_sample/c4.jsonl").read_text().splitlines())


@QUIET
def test_recovery_tunes_measures_and_pairs(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import recovery

    model = fixtures / "realtext_lm"
    neurons = [(layer, index) for layer in range(6) for index in range(20)]
    recipe = Recipe(neurons, base_model=base_model(AutoModelForCausalLM.from_pretrained(model), str(model)))
    place, second = recovery.Place(tmp_path), tmp_path / "second_scorer"
    second.symlink_to(fixtures / "toxicity_scorer")
    (tmp_path / "final_text.txt").write_text(
        "\n".join((fixtures / "wikitext2/heldout.txt").read_text().split("\n")[:3])
    )
    for name, value in {
        "FIXTURES": fixtures, "SCORER": fixtures / "toxicity_scorer", "DIRECTORY": second,
        "NUM_PROMPTS": 4, "NUM_DOCUMENTS": 4, "NUM_COMPLETIONS": 1, "ROOT": tmp_path, "place_of": lambda _: place,
        "write_inputs": lambda *_: None, "recipes_of": lambda *_: {"unscreened": recipe},
    }.items():  # fmt: skip
        monkeypatch.setattr(recovery, name, value)
    monkeypatch.chdir(ROOT)
    rows = list(recovery.run(str(model), 2, False))
    whole, removed, dampened, tuned = (
        recovery.BASE, *(f"unscreened, {done}" for done in (recovery.REMOVED, recovery.DAMPENED)), recovery.TUNED,
    )  # fmt: skip
    recovered = f"unscreened, {recovery.RECOVERED}"
    assert [row[:2] for row in rows] == [
        (removed, whole), (tuned, whole),
        (recovered, whole), (recovered, tuned), (recovered, removed), (dampened, whole),
    ]  # fmt: skip
    found = {row[:2]: row[2] for row in rows}
    for column in ("perplexity/disjoint", "perplexity/c4"):
        assert found[removed, whole][column]["relative"] > found[dampened, whole][column]["relative"] > 0
        assert found[recovered, removed][column]["relative"] != 0
        assert found[recovered, removed][column]["before"] == found[removed, whole][column]["after"]
    held = Recipe.load(next(tmp_path.glob("logs/recovery/*/unscreened_2/version_0/model")))
    assert held.neurons == neurons
    capsys.readouterr()
    assert list(recovery.run(str(model), 2, False)) == rows
    assert "s a step" not in capsys.readouterr().out, "what is done is not done again"
    recovery.show(rows, Console(width=190))
    assert f"{recovered}, against {tuned}: perplexity/disjoint" in capsys.readouterr().out.replace("\n", " ")


def test_what_tuning_has_undone_is_told_against_the_tuned_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from recovery import undone

    whole = torch.arange(40, dtype=torch.float64)
    tuned = whole - 3
    removed = whole + 6 + whole % 2
    assert undone(torch.stack([whole, removed, tuned, tuned + (removed - whole) / 4])) == pytest.approx((0.75,) * 3)
    share, low, high = undone(torch.stack([whole, removed, tuned, tuned + 3 * (whole % 2)]))
    assert share == pytest.approx(1 - 1.5 / 6.5)
    assert low < share - 0.02 < share + 0.02 < high
    assert undone(torch.stack([whole, removed, whole, removed])) == pytest.approx((0, 0, 0))


def test_the_real_models_figure_shows_every_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from real_model_figure import draw, points

    def written(name: str, cells: dict[str, tuple[int, float, float]]) -> Path:
        rows = [
            {"name": name, "neurons": [[0, place] for place in range(num)], "factor": None,
             "figures": {"perplexity/disjoint": {"relative": price}, "toxicity/mean": {"relative": toxicity}}}
            for name, (num, price, toxicity) in cells.items()
        ]  # fmt: skip
        path = tmp_path / name
        path.write_text(json.dumps(rows))
        return path

    first = "words, signed LRP"
    alone = written("alone", {f"{first}, k 20": (20, 0.9, -0.3), "random, k 20": (20, 0.0, 0.01)})
    screened = written("screened", {f"{first}, screened, k 20": (20, 0.002, -0.15)})
    (axes,) = draw(points(alone), points(screened)).axes
    assert [line.get_xydata().tolist() for line in axes.lines[:3]] == [[[90.0, -30.0]], [[0.2, -15.0]], [[0.0, 1.0]]]
    assert "random" in [text.get_text() for text in axes.texts]


def test_the_indirect_object_is_the_name_that_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from losses import _choices

    prompts = ["Then, Ann and Bob were at the house. Ann gave a drink to", "Ann and Bob and Ann and Bob gave it to"]
    assert list(_choices(prompts, {"Ann", "Bob"})) == [{"prompt": prompts[0], "right": "Bob", "wrong": "Ann"}]


def test_words_as_frequent_are_others_and_as_frequent(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import losses

    words = ["apple", "bread", "chair", "dress", "eagle", "fruit", "grass", "house"]

    class Tokenizer:
        """A token a word: its place."""

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [words.index(word) for word in text.split()]}

        def decode(self, ids: list[int]) -> str:
            return " " + words[ids[0]]

    seen = ["apple " * 6 + "bread " * 6 + "chair " * 2 + "dress"]
    monkeypatch.setattr(losses, "FIRST_UNSEEN", 1)
    monkeypatch.setattr(losses, "documents", lambda: [*seen, "house house house house house bread chair dress"])
    found = losses.equal_words(Tokenizer(), [words.index("apple")])  # type: ignore[arg-type]
    assert [int(one.ids[-1]) for one in found] == [words.index("bread")]
    assert found[0].start == 5


@pytest.mark.parametrize("case", ["luck", "skew", "share", "mixed"])
def test_intervals_cover_the_mean_that_their_changes_have(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from intervals import CASES, measured

    make, truth = CASES[case]
    assert float(make((400, 4, 200), torch.Generator().manual_seed(1)).mean()) == pytest.approx(truth, abs=0.005)
    row = measured(case, 30, 2, runs=60)
    assert 0.8 < row["percentile"] <= 1
    assert 0.8 < row["BCa"] <= 1
    assert row["width"] > 1
    assert measured(case, 30, 1, runs=2)["two stages"] is None


def test_the_comparison_with_a_control_is_held_against_an_exact_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from intervals import against_control, perplexity_covered

    rates = against_control(0.1, 200, 0)
    assert rates["exchange: fell"] < rates["flips: fell"]
    assert rates["exchange: fell"] + rates["exchange: rose"] <= 0.1
    assert min(rates["covers"], rates["covers, half"], perplexity_covered(60)) > 0.85


def test_evaluation_benchmark_counts_in_forward_passes(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    command = [
        sys.executable, "benchmarks/evaluation.py", str(tmp_path / "model"), "--json", str(tmp_path / "out.json"),
        "--rounds", "1", "--windows", "2", "--length", "16", "--completions", "3", "--tokens", "4",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert [name for name in result if name.startswith("perplexity")] == [
        "perplexity, before: logits at all positions", "perplexity", "perplexity, lower half shared",
        "perplexity changed",
    ]  # fmt: skip
    parts = result["of which forward passes"] + result["of which sampling"]
    assert result["generation, per token"] == pytest.approx(parts)
    assert all(value > 0 for name, value in result.items() if name != "of which sampling" and "changed" not in name)
    assert 0 <= result["perplexity changed"] < 1e-5
    assert 0 <= result["completions changed"] <= 3
    assert f"{result['completions changed']} of 3 completions" in run.stdout
    assert "2 x 16 tokens" in run.stdout
