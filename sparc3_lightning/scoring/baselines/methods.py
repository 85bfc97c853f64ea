"""The methods by name: what each one's score is, and what it has to see."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparc3_lightning.lrp.linear import SIGNS
from sparc3_lightning.lrp.rules import METHOD_OF_VARIANT, Variant


@dataclass(frozen=True)
class Method:
    """One way to score.

    Attributes:
        meaning: The score of a neuron, or of a weight.
        variant: Rules of a gradient-based method, which has a sign; None for the others.
        needs: What of the forward pass it is made of: "inputs" of the layers, "activations" of the neurons, or their
            "maxima" in each sample.
        ranks: It gives no score for each reference set but one ranking, in which the lowest go first.
        neurons_only: It scores neurons whatever the granularity.
    """

    meaning: str
    variant: Variant | None = None
    needs: str | None = None
    ranks: bool = False
    neurons_only: bool = False


METHODS: dict[str, Method] = {
    "lrp": Method("mean relevance, AttnLRP", "attnlrp"),
    "cp_lrp": Method("mean relevance, CP-LRP", "cp_lrp"),
    "gradient": Method("mean of W * plain gradient: no rules", "gradient"),
    "wanda": Method("|W| times the L2 norm of the input over all real tokens of the set", needs="inputs"),
    "wanda_mean": Method("the same with the mean over samples of the squared norm, as Wanda's code", needs="inputs"),
    "wanda_sequential": Method("|W| times the norm, each block after the blocks before it were pruned, per row"),
    "activation": Method("mean |activation| over the set's real tokens", needs="activations", neurons_only=True),
    "auroc": Method(
        "0.5 - AUROC of the neuron's highest activation, behaviour against general: below 0 is specific to the "
        "behaviour (AurA)", needs="maxima", ranks=True, neurons_only=True,
    ),
    "magnitude": Method("|W|: the smallest go first, whatever the sets", ranks=True),
    "random": Method("uniform in [0, 1), seeded: a control", ranks=True),
}  # fmt: skip


def method_key(method: str, sign: str = "abs") -> str:
    """Directory and key of a method's scores: its name, with `_signed` where its scores are signed."""
    return f"{method}_signed" if sign == "signed" and METHODS[method].variant is not None else method


def key_of_variant(variant: str, sign: str) -> str:
    """Key of what a run attributes by."""
    return method_key(METHOD_OF_VARIANT[variant], sign)


def expand_methods(
    methods: Sequence[str], signs: Sequence[str], callback: str = "BaselineCallback"
) -> dict[str, tuple[str, str]]:
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
    return {method_key(method, sign): (method, sign_of(method, sign)) for method in methods for sign in signs}


def sign_of(method: str, sign: str) -> str:
    """The sign that a method's scores have: what is asked for, where it has a choice."""
    if METHODS[method].variant is not None:
        return sign
    return "signed" if method == "auroc" else "abs"
