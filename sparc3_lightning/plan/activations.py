"""What attribution keeps for the backward pass, in closed form: tests/unit/plan/test_activations.py counts again."""

from collections.abc import Sequence

from sparc3_lightning.plan.shape import Linear, Shape

# Bytes of the widest temporaries, a token: three float32 tensors of hidden size in a norm, or three gradients of the
# feed-forward's width in the model's type.
_NORM_BYTES, _MLP_TENSORS = 12, 3


def saved_bytes(shape: Shape, tokens: int, attributed: Sequence[Linear], itemsize: int) -> int:
    """Activations that the backward pass of `tokens` tokens needs, of all samples of a batch together.

    Nothing is kept before the first attributed layer, and after the last attention only each sample's explained token.

    Args:
        shape: The model.
        tokens: Tokens of the batch, padding included.
        attributed: The layers attributed.
        itemsize: Bytes of one number of the model's type.
    """
    first = min(linear.place for linear in attributed)
    places = {linear.place for linear in attributed}
    # The last norm's input and output.
    numbers, float32_numbers = 2 * shape.width * (first[0] < shape.layers), 0
    for layer in range(first[0], shape.layers):
        is_reached = first < (layer, 0)
        attends = is_reached or (layer, 0) in places
        numbers += _attention_width(shape, is_reached, (layer, 0) in places) if attends else 0
        float32_numbers += shape.heads if attends else 0
        mlp_reached = first < (layer, 2)
        numbers += _mlp_width(shape, layer, mlp_reached, places)
    return tokens * (itemsize * numbers + 4 * float32_numbers)


def checkpointed_bytes(shape: Shape, tokens: int, attributed: Sequence[Linear], itemsize: int) -> int:
    """Under activation checkpointing: every block's input, and what one block keeps while it runs again."""
    one_block = saved_bytes(shape, tokens, attributed, itemsize) // max(1, shape.layers - 1)
    return tokens * itemsize * shape.width * (shape.layers + 2) + one_block


def _attention_width(shape: Shape, is_reached: bool, is_attributed: bool) -> int:
    """The norm's input, the layers' input; q, k, v and what attention gives, which is o's input."""
    return shape.width * (is_reached + is_attributed) + 2 * shape.query_width + 2 * shape.key_width


def _mlp_width(shape: Shape, layer: int, is_reached: bool, places: set[tuple[int, int]]) -> int:
    """The norm's input, the layers' input; what enters the activation, what leaves it, up's output, down's input."""
    if layer == shape.layers - 1:
        return 2 * shape.width * is_reached
    has_up, has_down = (layer, 2) in places, (layer, 3) in places
    kept = 3 if is_reached else int(has_up)
    return shape.width * (is_reached + has_up) + shape.neurons * (kept + has_down)


def temporary_bytes(shape: Shape, tokens: int, itemsize: int) -> int:
    """The widest temporaries of one block."""
    return tokens * max(_NORM_BYTES * shape.width, _MLP_TENSORS * itemsize * shape.neurons)
