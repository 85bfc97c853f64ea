"""Hashes and versions."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch.plugins import Precision

from sparc3_lightning.models.identity import base_model, tokenizer_identity, weight_hash
from sparc3_lightning.models.load import load_model, load_tokenizer
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.recipe import Recipe
from tests.tiny import LAYERS, NEURONS, tiny_llama
from tests.tiny_files import tiny_tokenizer


def test_hash_does_not_depend_on_dtype() -> None:
    hashes = {weight_hash(tiny_llama(dtype=dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float64)}
    assert len(hashes) == 1


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loaded", ["float16", "bfloat16", "float32", "float64"])
def test_a_recipe_is_of_the_checkpoint_whatever_type_it_was_made_in(
    stored: torch.dtype, loaded: Any, tmp_path: Path
) -> None:
    base = tiny_llama(dtype=stored)
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight.mul_(1e-6)  # below what float16 holds exactly
        base.model.layers[1].mlp.up_proj.weight[0, 0] = 1.001
    base.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype=loaded)
    found = base_model(model)["weight_hash"]
    # What recipes hold that were made in the checkpoint's own type.
    assert found == weight_hash(base)
    for dtype in ("auto", "float16", "float32"):
        apply_recipe(load_model(str(tmp_path), dtype=dtype), Recipe([(0, 1)], base_model={"weight_hash": found}))
    # A recipe that was made in this type by an older version names the converted weights.
    apply_recipe(model, Recipe([(0, 1)], base_model={"weight_hash": weight_hash(model)}))


def test_float16_weights_that_were_changed_are_not_the_checkpoints(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    recipe = Recipe([(0, 1)], base_model=base_model(load_model(str(tmp_path), dtype="float16")))
    model = load_model(str(tmp_path), dtype="float16")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] *= 1.01
    with pytest.raises(ValueError, match="weight hash"):
        apply_recipe(model, recipe)


def test_converted_by_the_trainer_after_it_was_loaded(tmp_path: Path) -> None:
    """`trainer.precision: 16-true` of a model loaded as bfloat16."""
    tiny_llama().save_pretrained(tmp_path)
    wanted = base_model(load_model(str(tmp_path)))["weight_hash"]
    assert base_model(load_model(str(tmp_path), dtype="bfloat16").half())["weight_hash"] == wanted


def test_hash_sees_values_names_and_shapes() -> None:
    hashes = [weight_hash(tiny_llama(**options)) for options in ({}, {"seed": 1}, {"tie_word_embeddings": True})]
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] *= 1.01
    hashes.append(weight_hash(model))
    model = tiny_llama()
    mlp = model.model.layers[0].mlp
    mlp.up_proj, mlp.gate_proj = mlp.gate_proj, mlp.up_proj
    hashes.append(weight_hash(model))
    assert len(set(hashes)) == 5


def test_hash_does_not_depend_on_memory_order() -> None:
    model = tiny_llama()
    before = weight_hash(model)
    down = model.model.layers[0].mlp.down_proj
    down.weight.data = down.weight.data.T.contiguous().T
    assert weight_hash(model) == before


def test_base_model() -> None:
    described = base_model(tiny_llama(), name="someone/model", revision="abc")
    assert described["id"] == "someone/model"
    assert described["revision"] == "abc"
    assert described["model_type"] == "llama"
    assert described["num_neurons"] == LAYERS * NEURONS
    assert len(described["weight_hash"]) == 64
    assert base_model(tiny_llama())["id"] == "unnamed llama"


FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    """A hub's cache, offline: `someone/tiny` and `someone/words`, each with two commits, `main` and a tag."""
    for repository in ("tiny", "words"):
        home = tmp_path / f"models--someone--{repository}"
        (home / "refs").mkdir(parents=True)
        for commit, ref, seed in ((FIRST, "main", 0), (SECOND, "v2", 1)):
            tiny_llama(seed=seed).save_pretrained(home / "snapshots" / commit)
            tiny_tokenizer().save_pretrained(home / "snapshots" / commit)
            (home / "refs" / ref).write_text(commit)
    with mock.patch("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path)):
        yield tmp_path


@pytest.mark.parametrize(
    ("revision", "wanted"),
    [
        (None, {"revision": FIRST}),
        ("v2", {"revision": SECOND, "ref": "v2"}),
        (SECOND, {"revision": SECOND}),
    ],
)
def test_a_branch_or_tag_is_recorded_with_its_commit(revision: str | None, wanted: Any, cache: Path) -> None:
    """It moves on; the commit is what `sparc3 apply` loads."""
    model = load_model("someone/tiny", revision)
    found = base_model(model, "someone/tiny", revision, tokenizer_identity("someone/words", revision))
    for identity, name in ((found, "someone/tiny"), (found["tokenizer"], "someone/words")):
        assert {key: identity[key] for key in identity if key in ("id", "revision", "ref")} == {"id": name, **wanted}
    assert found["weight_hash"] == weight_hash(tiny_llama(seed=int(wanted["revision"] == SECOND)))


def test_a_directory_has_no_revision(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    found = base_model(load_model(str(tmp_path), "v2"), str(tmp_path), "v2")
    assert found["revision"] is None
    assert "ref" not in found


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"model": "someone/tiny", "revision": "v2"}, ("someone/tiny", "v2")),
        ({"model": "someone/tiny", "revision": "v2", "tokenizer": "someone/tiny"}, ("someone/tiny", "v2")),
        ({"model": "someone/tiny", "revision": "v2", "tokenizer": "someone/words"}, ("someone/words", None)),
        (
            {"model": "someone/tiny", "tokenizer": "someone/words", "tokenizer_revision": "v2"},
            ("someone/words", "v2"),
        ),
        ({"config": {}, "tokenizer": "someone/words", "tokenizer_revision": "v2"}, ("someone/words", "v2")),
    ],
)
def test_a_revision_is_of_one_repository(options: dict[str, Any], wanted: tuple[str, str | None], cache: Path) -> None:
    """`v2` of the model says nothing about another repository, where it may not even be."""
    module = SparC3Module(**options)
    with mock.patch("sparc3_lightning.module.load_tokenizer", wraps=load_tokenizer) as loaded:
        module.trainer = SimpleNamespace(log_dir=None, default_root_dir="logs", precision_plugin=Precision())
        module.setup("predict")
    loaded.assert_called_once_with(*wanted)
    module.model = tiny_llama()
    found = module.identity()["tokenizer"]
    assert found["id"] == wanted[0]
    assert found["revision"] == (FIRST if wanted[1] is None else SECOND)
