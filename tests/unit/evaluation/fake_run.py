"""A finished run without a model: real score sets, recipe and evaluations with known figures."""

import math
from collections.abc import Sequence

import torch

from sparc3_lightning.evaluation import Decoding, Evaluation, Evaluator, PerplexityResult, ToxicityResult
from sparc3_lightning.evaluation.records import PromptResult, ScoredCompletion
from sparc3_lightning.metrics import summarise, windows
from sparc3_lightning.pruning.aims import Aim
from sparc3_lightning.pruning.select import select_neurons
from sparc3_lightning.pruning.select_weights import select_weights
from sparc3_lightning.runs.results import experiment_results, with_behaviours
from sparc3_lightning.runs.run import Run
from sparc3_lightning.scoring.combine import differential
from sparc3_lightning.scoring.manifest import make_manifest
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials.behaviours import compare_behaviours

LAYERS, NEURONS = 4, 20
BASE = {
    "id": "made-up/model",
    "revision": None,
    "model_type": "llama",
    "num_layers": LAYERS,
    "num_neurons": LAYERS * NEURONS,
    "weight_hash": "0" * 64,
}


def module(layer: int) -> str:
    return f"model.layers.{layer}.mlp.up_proj"


def make_set(name: str, rows: torch.Tensor, num_samples: int, num_tokens: int, sign: str = "abs") -> ScoreSet:
    """Scores of all layers' neurons (L, F) or weights (L, F, I)."""
    scores = {module(layer): row for layer, row in enumerate(rows)}
    options = {
        "variant": "attnlrp", "target": "last_token_argmax", "sign": sign,
        **({"granularity": "neuron", "modules": "neurons"} if rows.dim() == 2 else
           {"granularity": "weight", "modules": "all"}),
    }  # fmt: skip
    manifest = make_manifest(
        base_model=BASE,
        options=options,  # type: ignore[arg-type]
        left_out=[],
        data={"name": name, "source": {"class": "Made"}, "num_samples": num_samples, "num_tokens": num_tokens,
              "token_hash": "1" * 64, "target_ids": [0] * num_samples},
        relevance_per_sample=float(rows.sum()),
        model_dtype="float32",
    )  # fmt: skip
    return ScoreSet(scores, manifest)


def make_evaluation(
    scores: Sequence[Sequence[float]],
    perplexity: float = 10.0,
    uniqueness: float = 0.8,
    length: int = 50,
    texts: Sequence[str] = (),
    protocol: str = "document",
) -> Evaluation:
    """Toxicity scores, prompts by completions; the other figures are the same for all."""
    prompts = [
        PromptResult(
            f"prompt/{i}",
            f"prompt {i}",
            [
                ScoredCompletion(texts[i] if i < len(texts) else f"text {i}.{j}", length, uniqueness, {"toxicity": s})
                for j, s in enumerate(row)
            ],
        )
        for i, row in enumerate(scores)
    ]
    toxicity = ToxicityResult(
        protocol=protocol,
        scorer="made-up",
        threshold=0.5,
        decoding=Decoding(num_completions=len(scores[0])),
        attributes={"toxicity": summarise(torch.tensor(scores, dtype=torch.float64), 0.5)},
        uniqueness=uniqueness,
        length=float(length),
        num_prompts=len(prompts),
        num_empty=0,
        num_truncated_prompts=0,
        num_truncated_texts=0,
        prompts=prompts,
    )
    return Evaluation({name: make_perplexity(name, perplexity) for name in ("sliding", "disjoint")}, toxicity)


def make_perplexity(protocol: str, figure: float) -> PerplexityResult:
    """Every window's loss is the mean's but for a ripple, the same in every model."""
    loss, cut = math.log(figure), windows(1000, protocol, 128, 32)
    num_scored, stride = sum(item.num_scored for item in cut), 32 if protocol == "sliding" else 128
    ripple = [0.01 * (-1) ** place for place, _ in enumerate(cut)]
    mean = sum(one * item.num_scored for one, item in zip(ripple, cut, strict=True)) / num_scored
    losses = [item.num_scored * (loss + one - mean) for one, item in zip(ripple, cut, strict=True)]
    return PerplexityResult(protocol, figure, loss, 1000, num_scored, len(cut), 128, stride, True, losses)


def make_run(
    before: Sequence[Sequence[float]] | None = None,
    after: Sequence[Sequence[float]] | None = None,
    controls: Sequence[Sequence[Sequence[float]]] | None = None,
) -> Run:
    """Three general seeds and a behaviour in which neurons 3 of layer 1 and 7 of layer 2 stand out."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(LAYERS, NEURONS, generator=generator) + 0.5
    run = Run(base_model=dict(BASE), expected_modules=[module(layer) for layer in range(LAYERS)])
    run.general, run.behaviour = ["general_seed0", "general_seed1", "general_seed2"], "toxic"
    for name in run.general:
        noisy = base * (1 + 0.1 * torch.rand(LAYERS, NEURONS, generator=generator))
        run.score_sets[name] = make_set(name, noisy, num_samples=10, num_tokens=1280)
    toxic = base.clone()
    toxic[1, 3] += 5
    toxic[2, 7] += 4
    run.score_sets["toxic"] = make_set("toxic", toxic, num_samples=5, num_tokens=100)
    run.differential = differential([run.score_sets[name] for name in run.general], run.score_sets["toxic"])
    run.recipe = select_neurons(run.differential, 2)
    before = before or [[0.2 + 0.02 * i] for i in range(30)]
    run.baseline = make_evaluation(before)
    run.pruned = make_evaluation(after or [[0.5 * row[0]] for row in before], perplexity=10.5)
    controls = controls if controls is not None else [[[row[0] + shift] for row in before] for shift in (-0.01, 0.01)]
    run.controls = [make_evaluation(scores, perplexity=10.1) for scores in controls]
    run.seconds = {f"attribution: {name}": 2.0 for name in run.score_sets} | {"evaluation: baseline": 1.5}
    return run


def make_weight_run(inputs: int = 6) -> Run:
    """The same run of single weights: a neuron's score is spread over the `inputs` weights of its row."""
    run = make_run()
    spread = torch.linspace(0.5, 1.5, inputs)
    for name, found in run.score_sets.items():
        rows = torch.stack([found.scores[module(layer)] for layer in range(LAYERS)])
        run.score_sets[name] = make_set(name, rows[..., None] * spread, num_samples=10, num_tokens=1280)
    run.differential = differential([run.score_sets[name] for name in run.general], run.score_sets["toxic"])
    run.recipe = select_weights(run.differential, 0.01)
    return run


def make_behaviours_run() -> Run:
    """The same run of two behaviours: neurons 3 of layer 1 and 7 of layer 2, and the first of these with another."""
    run = make_run()
    base = torch.stack([run.score_sets["toxic"].scores[module(layer)] for layer in range(LAYERS)])
    base[2, 7], base[3, 5] = base[3, 5], base[2, 7] + 1
    run.score_sets["insult"] = make_set("insult", base, num_samples=5, num_tokens=100)
    general = [run.score_sets[name] for name in run.general]
    found = {name: differential(general, run.score_sets[name]) for name in ("toxic", "insult")}
    controls = run.controls
    for name, of_behaviour in found.items():
        part = run.part(Aim(name, "each", (name,), tuple(run.general)))
        part.differential, part.recipe, part.controls = of_behaviour, select_neurons(of_behaviour, 2), controls
        part.results = experiment_results(part, Evaluator(num_draws=200), {})
    run.comparison = compare_behaviours(found, [2, 8])
    run.adopt_first()
    run.results = with_behaviours(run)
    return run
