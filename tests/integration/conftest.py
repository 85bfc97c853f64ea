"""A tiny model, its scores and a recipe on disk, for the file-only commands."""

import pytest
from transformers import AutoModelForCausalLM

from sparc3_lightning.main import main
from tests.tiny_files import Files, save_tiny_model, save_tiny_scores


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    home = tmp_path_factory.mktemp("files")
    made = Files(home / "model", home / "scores", home / "recipe.json")
    save_tiny_model(made.model)
    save_tiny_scores(made.scores, AutoModelForCausalLM.from_pretrained(made.model).eval())
    main([*made.select, "--output", str(made.recipe)])
    return made
