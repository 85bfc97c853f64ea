"""RelevanceCallback: what it refuses before any work."""

from pathlib import Path

import pytest
import torch

from callbacks import RelevanceCallback
from tests.distributed.jobs import Case, FixedSamples, following, make_data, make_module, make_trainer, predict
from tests.tiny_files import save_tiny_model

WORDS = following(0)


@pytest.mark.parametrize(
    ("words", "against", "said"),
    [
        (
            [*WORDS[:6], torch.tensor([-1])],
            (),
            r"`targets of data\.behaviours\.toxic` must hold .* between 0 and 47 .*-1",
        ),
        (WORDS[:6], (), r"`targets of data\.behaviours\.toxic` must hold .* for each of the 7 samples, got 6"),
        (WORDS, [48] * 7, r"`against of data\.behaviours\.toxic` must hold .* between -1 and 47"),
    ],
)
def test_targets_of_a_source_that_do_not_fit(
    words: list[torch.Tensor], against: list[int], said: str, tmp_path: Path
) -> None:
    save_tiny_model(tmp_path)
    case = Case(target="next_token")
    data = make_data(**{**case.sets(), "toxic": FixedSamples(following=words, against=against)})
    with pytest.raises(ValueError, match=said):
        predict(make_trainer("replicated", RelevanceCallback()), make_module(str(tmp_path), case), data)
