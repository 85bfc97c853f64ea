"""The document's experiment on LLaMA-3-8B: its values stand in the config, and arrive."""

import pytest

from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.data import C4, RealToxicityPrompts, WikiText2
from sparc3_lightning.evaluation.generation import Decoding
from sparc3_lightning.metrics import DetoxifyScorer
from tests.integration.test_configs import CONFIGS, DOCUMENT, build
from tests.runs import QUIET, read

pytestmark = QUIET


@pytest.fixture(scope="module")
def document() -> SparC3CLI:
    return build(DOCUMENT)


def test_document_s_values_are_written_out() -> None:
    """Protocol `document` must not depend on a default: the values stand in the file itself."""
    config = read(CONFIGS / DOCUMENT)
    model, data = config["model"], config["data"]
    assert config["seed_everything"] == 0
    assert {key: model[key] for key in ("model", "dtype", "variant", "granularity", "sign", "target", "modules")} == {
        "model": "meta-llama/Meta-Llama-3-8B",
        "dtype": "bfloat16",
        "variant": "attnlrp",
        "granularity": "neuron",
        "sign": "abs",
        "target": "last_token_argmax",
        "modules": "neurons",
    }
    evaluator = model["evaluator"]["init_args"]
    assert evaluator["toxicity_protocol"] == "document"
    assert evaluator["decoding"] == {
        "max_new_tokens": 50,
        "temperature": 0.7,
        "top_p": 0.9,
        "num_completions": 1,
        "seed": 0,
    }
    assert evaluator["scorer"]["init_args"] == {"model_type": "original"}
    assert (evaluator["window"], evaluator["stride"]) == (2048, 512)
    assert evaluator["perplexity_protocols"] == ["sliding", "disjoint"]
    assert (evaluator["num_draws"], evaluator["confidence"]) == (10000, 0.95)
    assert [*data["general"], *data["behaviours"]] == ["general_seed0", "general_seed1", "general_seed2", "toxic"]
    for seed in range(3):
        general = data["general"][f"general_seed{seed}"]["init_args"]
        assert general == {
            "num_samples": 128,
            "length": 2048,
            "crop": "head",
            "add_bos": True,
            "seed": seed,
            "num_seeds": 3,
        }
    prompts = {"select_by": "prompt", "threshold": 0.9, "num_prompts": 93, "seed": 0}
    # The one value that is not the document's: what is evaluated was not attributed.
    assert data["behaviours"]["toxic"]["init_args"] == {**prompts, "part": "attribution"}
    assert data["evaluation_prompts"]["init_args"] == {**prompts, "part": "evaluation"}
    assert data["allow_overlap"] is False
    assert data["evaluation_text"]["init_args"] == {"split": "test"}
    pruning = next(c for c in config["trainer"]["callbacks"] if c["class_path"] == "callbacks.PruningCallback")
    assert pruning["init_args"] == {
        "num_neurons": 100,
        "scope": "global",
        "general_weight": 1.0,
        "general_penalty": "raw",
        "save_model": True,
    }


def test_document_s_values_arrive(document: SparC3CLI) -> None:
    """What was built has them: none is dropped, renamed or overridden on the way."""
    module, data = document.model, document.datamodule
    evaluator = module.evaluator
    options = ("granularity", "sign", "target", "variant")
    assert [module.attribution_options[name] for name in options] == ["neuron", "abs", "last_token_argmax", "attnlrp"]
    assert evaluator.decoding == Decoding(max_new_tokens=50, temperature=0.7, top_p=0.9, num_completions=1, seed=0)
    assert (evaluator.window, evaluator.stride, evaluator.perplexity_protocols) == (2048, 512, ["sliding", "disjoint"])
    assert isinstance(evaluator.scorer, DetoxifyScorer)
    assert evaluator.scorer.name == "detoxify-original"
    for seed in range(3):
        general = data.reference_sets[f"general_seed{seed}"]
        assert isinstance(general, C4)
        assert (general.num_samples, general.length, general.crop, general.add_bos) == (128, 2048, "head", True)
        assert (general.source.dataset, general.source.subset) == ("allenai/c4", "en")
        assert general.min_tokens > 2048
    for prompts in (data.reference_sets["toxic"], data.evaluation_prompts):
        assert isinstance(prompts, RealToxicityPrompts)
        assert (prompts.threshold, prompts.below, prompts.num_prompts) == (0.9, False, 93)
        assert prompts.source.dataset == "allenai/real-toxicity-prompts"
    assert isinstance(data.evaluation_text, WikiText2)
    assert (data.evaluation_text.source.dataset, data.evaluation_text.source.subset) == (
        "Salesforce/wikitext",
        "wikitext-2-raw-v1",
    )
