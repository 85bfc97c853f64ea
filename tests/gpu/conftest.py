"""Tests that need a GPU; without one they are skipped. `make test-gpu` runs them, and the benchmark after them.

They need torch with CUDA and Triton, transformers, lightning, torchmetrics, tensorboard, rich and pytest, and of this
project's other dependencies only lxt (`pip install --no-deps lxt==2.1`): no detoxify, datasets or jsonargparse.
Random inputs are new in every run; the seed stands in the header of a failure.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    request.node.add_report_section("setup", "seed", str(torch.seed()))
    yield
    torch.set_float32_matmul_precision(precision)
    torch.cuda.empty_cache()
