"""What one rank can do for all, rank 0 does, once: reading and tokenising data, hashing the model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from sparc3_lightning.data import C4, PromptFile, RealToxicityPrompts, TextFile, WikiText2
from sparc3_lightning.data import c4 as c4_module
from sparc3_lightning.data.samples import LoadContext, Prompt
from sparc3_lightning.data.sources import Row, Source
from sparc3_lightning.distributed.ranks import gather_objects
from sparc3_lightning.models import identity
from sparc3_lightning.models.sharding import shard_model
from tests.launch import run_distributed
from tests.tiny import tiny_llama
from tests.tiny_files import tiny_tokenizer


def responses(prompts: list[Prompt]) -> list[float]:
    """All ranks must be here together, as when the model answers."""
    everyone = gather_objects([[prompt.id for prompt in prompts]])
    assert all(names == everyone[0] for names in everyone)
    return [int(prompt.id) % 2 for prompt in prompts]


def read_all(home: Path) -> list[Any]:
    """What each source gives, as JSON values."""
    context = LoadContext(tiny_tokenizer(), 32, score_responses=responses)
    text, rows = str(home / "text.txt"), str(home / "prompts.jsonl")
    samples = [
        source.load(context)
        for source in (
            C4(text, num_samples=3, length=6, seed=1, num_seeds=2),
            TextFile(text, num_samples=4),
            PromptFile(rows, num_prompts=5),
            RealToxicityPrompts(rows, select_by="response", threshold=0.5, num_prompts=3),
        )
    ]
    prompts = [
        source.load_prompts(context, {"2": "general"})
        for source in (
            PromptFile(rows, num_prompts=5),
            RealToxicityPrompts(rows, select_by="response", threshold=0.5, num_prompts=3),
        )
    ]
    return [
        [[[ids.tolist() for ids in one.ids], one.source, one.sample_ids, one.fingerprints] for one in samples],
        [[[prompt.id, prompt.text] for prompt in one] for one in prompts],
        [TextFile(text).load_rows(), WikiText2(text).load_rows()],
    ]


def errors(home: Path) -> list[str]:
    """Of what cannot be read, by rank 0 alone."""
    context = LoadContext(tiny_tokenizer(), 32)
    found = []
    for source in (C4(str(home / "nowhere.txt"), length=6), C4(str(home / "text.txt"), num_samples=99, length=6)):
        with pytest.raises((OSError, ValueError)) as raised:
            source.load(context)
        found.append(f"{type(raised.value).__name__}: {raised.value}")
    with pytest.raises(ValueError, match=r"`num_prompts` is 99, but .* has only 10 prompts") as raised:
        PromptFile(str(home / "prompts.jsonl"), num_prompts=99).load_prompts(context)
    return [*found, str(raised.value)]


def read_together(home: str, wanted: list[Any], wanted_errors: list[str]) -> None:
    torch.distributed.init_process_group("gloo")
    is_reader = torch.distributed.get_rank() == 0
    rows, encode, counts = Source.rows, c4_module.encode, {"rows": 0, "encode": 0}

    def counted_rows(source: Source) -> Iterator[Row]:
        counts["rows"] += 1
        return rows(source)

    def counted_encode(*args: Any, **options: Any) -> list[int]:
        counts["encode"] += 1
        return encode(*args, **options)

    with mock.patch.object(Source, "rows", counted_rows), mock.patch.object(c4_module, "encode", counted_encode):
        assert json.loads(json.dumps(read_all(Path(home)))) == wanted
        assert errors(Path(home)) == wanted_errors
    assert (counts["rows"] > 0) == (counts["encode"] > 0) == is_reader


def test_rank_zero_reads_for_all(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(" ".join(f"w{(7 * n + k) % 40}" for k in range(9)) for n in range(12)))
    prompts = [{"id": str(n), "prompt": f"w{n} w{n + 3} w{2 * n}", "prompt_toxicity": 0.5} for n in range(10)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    wanted = json.loads(json.dumps(read_all(tmp_path)))
    assert [len(one[0]) for one in wanted[0]] == [3, 4, 5, 3]
    run_distributed(read_together, 2, str(tmp_path), wanted, errors(tmp_path))


def hash_together(wanted: dict[str, str]) -> None:
    torch.distributed.init_process_group("gloo")
    rank, mesh = torch.distributed.get_rank(), init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for dtype in (torch.float32, torch.bfloat16):
        for is_sharded in (False, True):
            model = tiny_llama(dtype=dtype)
            num_parameters = len(list(model.parameters()))
            if is_sharded:
                shard_model(model, mesh)
            elif rank:
                with torch.no_grad():
                    model.lm_head.weight.zero_()  # it is not looked at
            with mock.patch.object(identity, "_bytes_of", wraps=identity._bytes_of) as hashed:
                assert identity.weight_hash(model) == wanted[str(dtype)]
            assert hashed.call_count == (0 if rank else num_parameters)


@pytest.mark.parametrize("world", [2, 4])
def test_rank_zero_hashes_for_all(world: int) -> None:
    """Sharded by rows, even uneven ones: the hash is that of one process."""
    wanted = {str(dtype): identity.weight_hash(tiny_llama(dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)}
    run_distributed(hash_together, world, wanted)
