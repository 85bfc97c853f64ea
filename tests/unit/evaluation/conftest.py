import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.unit.evaluation.tiny import TextPrompt, make_model, make_prompts, make_rows, make_tokenizer


@pytest.fixture
def model() -> LlamaForCausalLM:
    return make_model()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def prompts() -> list[TextPrompt]:
    return make_prompts()


@pytest.fixture(scope="session")
def rows() -> list[str]:
    return make_rows()
