"""Forward passes that begin above the first changed block: what the blocks below gave is kept, not computed again."""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from sparc3_lightning.lrp.patch import replaced_forward
from sparc3_lightning.models.families import get_family

AroundPass = Callable[[Hashable], AbstractContextManager[object]]
"""Gives what a forward pass of the batch that is so named runs in."""


def whole_pass(batch: Hashable) -> AbstractContextManager[object]:
    """What a pass through all blocks runs in: nothing."""
    return nullcontext()


@contextmanager
def begun_at(
    blocks: Sequence[nn.Module], first: int, entering: Any, keep: Collection[int], receive: Callable[[int, Any], None]
) -> Iterator[None]:
    """Forward passes meanwhile begin at block `first`.

    Args:
        blocks: The model's.
        first: The first that runs; 0 for a whole pass.
        entering: What block `first - 1` gives; not read where `first` is 0.
        keep: Blocks, none below `first` and none 0; what enters them is handed on.
        receive: Takes such a block's number and what the one below it gave.
    """
    with ExitStack() as stack:
        for block in blocks[:first]:
            stack.enter_context(replaced_forward(block, lambda *args, **kwargs: entering))
        for number in keep:
            handle = blocks[number - 1].register_forward_hook(
                lambda module, args, output, number=number: receive(number, output)
            )
            stack.callback(handle.remove)
        yield


class LowerBlocks:
    """What blocks of the unchanged model gave, batch by batch of one text, on the model's device.

    Interventions change blocks from a first one on; all below still give what they gave before.

    Args:
        model: A causal language model of a known family; whole, or sharded (FSDP2).
        max_bytes: Most bytes that are kept; what does not fit is computed again.

    Attributes:
        num_bytes: How many are.
    """

    def __init__(self, model: PreTrainedModel, max_bytes: int) -> None:
        self._blocks: Sequence[nn.Module] = get_family(model.config.model_type).block_modules(model)
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._entering: dict[Hashable, dict[int, Any]] = {}

    @contextmanager
    def around(self, batch: Hashable, changed: int | None, to_follow: Collection[int] = ()) -> Iterator[None]:
        """Let a forward pass begin at the highest block that it can, and keep what it and later ones may begin from.

        Args:
            batch: Names the pass's input: the same name, the same token ids.
            changed: The first block that differs from the unchanged model's; None where none does.
            to_follow: Other passes' first changed blocks; those above `changed` are left to them.
        """
        known = self._entering.setdefault(batch, {})
        highest = len(self._blocks) if changed is None else changed
        first = max((number for number in known if number <= highest), default=0)
        wanted = {*to_follow, *([] if changed is None else [changed])}
        keep = {number for number in wanted if first < number <= highest} if self.max_bytes else set()

        def receive(number: int, output: Any) -> None:
            size = sum(leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
            if self.num_bytes + size <= self.max_bytes:
                known[number] = output
                self.num_bytes += size

        with begun_at(self._blocks, first, known.get(first), keep, receive):
            yield
