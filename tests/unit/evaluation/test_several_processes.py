"""Several processes give what one gives, and shards call the model equally often (traps 4 and 19)."""

import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sparc3_lightning.evaluation import Decoding, Evaluator
from sparc3_lightning.evaluation.windows import share
from sparc3_lightning.metrics import LexicalScorer
from sparc3_lightning.pruning.lower_blocks import LowerBlocks
from tests.launch import PATIENCE
from tests.unit.evaluation.tiny import make_model, make_prompts, make_rows, make_tokenizer


@pytest.mark.parametrize(("count", "world"), [(7, 1), (7, 2), (7, 4), (3, 4), (8, 4), (1, 2)])
def test_nothing_is_repeated_or_dropped(count: int, world: int) -> None:
    parts = [share(list(range(count)), rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    real = [item for part in parts for item in part if item is not None]
    assert sorted(real) == list(range(count))
    assert sum(map(len, parts)) - count < world


def evaluate(sharded: bool = False) -> dict[str, Any]:
    """One process's evaluation, with the number of its model calls."""
    model, calls = make_model(), []
    # Many tokens end a text, so that the ranks' batches end at different steps.
    model.generation_config.eos_token_id = list(range(1, 16))
    if sharded:
        for block in [*model.model.layers, model]:
            fully_shard(block, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    evaluator = Evaluator(
        LexicalScorer([f"w{n}" for n in range(3, 30, 2)]), Decoding(max_new_tokens=6, num_completions=1),
        window=16, batch_size=2, toxicity_protocol="custom",
    )  # fmt: skip
    evaluation = evaluator.evaluate(model, make_tokenizer(), make_rows(), make_prompts())
    few = evaluator.toxicity(model, make_tokenizer(), make_prompts(1))
    lower = LowerBlocks(model, 10**9)
    for _ in range(2):  # the second begins at block 1
        around = partial(lower.around, changed=1)
        assert evaluator.perplexity(model, make_tokenizer(), make_rows(), around=around) == evaluation.perplexity
    assert lower.num_bytes > 0
    return {"evaluation": evaluation.to_json(), "few": few.length, "calls": len(calls)}


def work(rank: int, world: int, directory: Path, sharded: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory / 'meet'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=PATIENCE),
    )
    try:
        (directory / f"{rank}.json").write_text(json.dumps(evaluate(sharded)))
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(("world", "sharded"), [(2, True), (4, False)], ids=["2 sharded", "4 replicated"])
def test_ranks_agree_with_one_process(tmp_path: Path, world: int, sharded: bool) -> None:
    expected = evaluate()
    mp.spawn(work, (world, tmp_path, sharded), nprocs=world)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    # Replicas need not call it equally often: each ends its batches for itself.
    assert not sharded or len({rank["calls"] for rank in found}) == 1
    assert max(rank["calls"] for rank in found) < expected["calls"]
    for rank in found:
        assert rank["few"] == expected["few"]
        assert rank["evaluation"]["toxicity"] == expected["evaluation"]["toxicity"]
        for protocol, result in expected["evaluation"]["perplexity"].items():
            ours = rank["evaluation"]["perplexity"][protocol]
            for name in ("perplexity", "mean_loss"):
                assert ours.pop(name) == pytest.approx(result[name], rel=1e-12)
            assert ours == {name: value for name, value in result.items() if name in ours}
