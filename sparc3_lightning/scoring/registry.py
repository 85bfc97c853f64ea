"""The methods by name."""

from collections.abc import Mapping, Sequence

from sparc3_lightning.lrp.linear import SIGNS
from sparc3_lightning.scoring.activations import Activation, Auroc, Wanda, WandaMean
from sparc3_lightning.scoring.gradient import CPLRP, LRP, Gradient
from sparc3_lightning.scoring.method import Method, Scoring
from sparc3_lightning.scoring.sequential import WandaSequential
from sparc3_lightning.scoring.value_vectors import ValueVectors
from sparc3_lightning.scoring.weights import Magnitude, Random

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        LRP, CPLRP, Gradient, Wanda, WandaMean, WandaSequential, Activation, Auroc, ValueVectors, Magnitude, Random,
    )
}  # fmt: skip


def method_key(method: str, sign: str = "abs") -> str:
    """Directory and key of a method's scores: its name, with `_signed` where its scores are signed."""
    return f"{method}_signed" if sign == "signed" and METHODS[method].variant is not None else method


def gradient_method(variant: str) -> type[Gradient]:
    """The method that uses these rules.

    Raises:
        ValueError: None does.
    """
    found = {str(one.variant): one for one in METHODS.values() if issubclass(one, Gradient)}
    if variant not in found:
        raise ValueError(f"`variant` must be one of {tuple(found)}, got {variant!r}. Set `model.variant`.")
    return found[variant]


def expand_methods(
    methods: Sequence[str], signs: Sequence[str], callback: str = "BaselineCallback"
) -> dict[str, tuple[type[Method], str]]:
    """Method and sign by key: gradient-based methods once a sign, the others once.

    Args:
        methods: Names in `METHODS`.
        signs: Signs of the gradient-based ones.
        callback: Whose keys the messages name.

    Raises:
        ValueError: An unknown method or sign, or none.
    """
    if not methods or not set(methods) <= set(METHODS):
        raise ValueError(
            f"`methods` must be of {list(METHODS)}, got {list(methods)}. Set `{callback}.init_args.methods`."
        )
    if not signs or not set(signs) <= set(SIGNS):
        raise ValueError(f"`signs` must be of {SIGNS}, got {list(signs)}. Set `{callback}.init_args.signs`.")
    return {method_key(name, sign): (METHODS[name], sign) for name in methods for sign in signs}


def make_methods(chosen: Mapping[str, tuple[type[Method], str]], scoring: Scoring) -> dict[str, Method]:
    """The methods of `expand_methods` for one model.

    Raises:
        ValueError: One needs an option that is not set.
    """
    return {key: method(scoring, sign) for key, (method, sign) in chosen.items()}
