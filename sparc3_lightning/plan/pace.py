"""What a run's parts take on a GPU of known rates."""

import math
from collections.abc import Mapping, Sequence

from sparc3_lightning.metrics.perplexity import windows
from sparc3_lightning.models.families.llama import LLAMA_3_8B
from sparc3_lightning.plan.memory import pass_bytes, step_bytes, sum_itemsize
from sparc3_lightning.plan.needs import Settings
from sparc3_lightning.plan.rates import Rates
from sparc3_lightning.plan.sizes import Linear, Sizes, model_config

# The fused kernel takes so many tokens at once: fewer cost as much.
_KERNEL_TOKENS = 64
SENDING = "sending, beside the rest"


def elapsed(step: Mapping[str, float]) -> float:
    """Seconds of a step whose sending overlaps with its computing."""
    return max(step[SENDING], sum(step.values()) - step[SENDING])


def longest(step: Mapping[str, float]) -> str:
    """What sets the pace: sending, where the rest is over before it; or else the longest of the rest."""
    rest = {name: seconds for name, seconds in step.items() if name != SENDING}
    return SENDING if step[SENDING] > sum(rest.values()) else max(rest, key=rest.__getitem__)


def product_flops(attributed: Sequence[Linear], tokens: int) -> float:
    """Of the relevance products d_s^T x_s of one sample."""
    return float(sum(2 * (1 if linear.explains_last_token else tokens) * linear.numel for linear in attributed))


class Pace:
    """Seconds of a run's parts on one rank, all of them at work.

    A phase of matrix products takes as long as its arithmetic, or as reading the weights once.

    Args:
        settings: The run.
        sizes: Its model's.
        rates: The GPU's.

    Raises:
        ValueError: A type without known rates; modules that are not there.
    """

    def __init__(self, settings: Settings, sizes: Sizes, rates: Rates) -> None:
        self.settings, self.sizes, self.rates = settings, sizes, rates
        self.flops = rates.flops(settings.dtype)
        self.attributed = sizes.attributed(settings.modules)
        self.work = sizes.count(settings.modules, settings.dtype, settings.variant)
        self.read = settings.itemsize * sizes.num_parameters / rates.bandwidth
        self.link = rates.ring_link(settings.ranks_per_node, settings.num_nodes)

    def step(self, tokens: int, batch: int) -> dict[str, float]:
        """One batch of an attribution, by what its seconds go into; sending overlaps with all of the others.

        Args:
            tokens: Length of each sample.
            batch: Samples.
        """
        work, settings = self.work(tokens), self.settings
        again = 2 if settings.checkpoints_activations else 1
        gradients = work.backward_flops - product_flops(self.attributed, tokens)
        products = product_flops(self.attributed, max(tokens, _KERNEL_TOKENS))
        moved = work.forward_bytes + work.backward_bytes
        # Inside the product's epilogue W is read, and an accumulator of weights read and written, once a batch.
        per_weight = settings.itemsize + (2 * sum_itemsize(settings) if settings.granularity == "weight" else 0)
        added = per_weight * sum(linear.numel for linear in self.attributed)
        sent = sum(step_bytes(settings, self.sizes, self.attributed).values())
        return {
            "forward pass": again * max(batch * work.forward_flops / self.flops, self.read),
            "input gradients": max(batch * gradients / self.flops, self.read),
            "relevance products": batch * products / self.flops,
            "accumulation": added / self.rates.bandwidth,
            "norms, activations, residuals": batch * moved / self.rates.bandwidth,
            SENDING: sent / self.link,
        }

    def forward(self, tokens: int, batch: int, logits: float = 1) -> float:
        """One forward pass alone.

        Args:
            tokens: Length of each sample.
            batch: Samples.
            logits: At how many tokens of each the next one is predicted.
        """
        arithmetic = max(batch * self.sizes.forward_flops(tokens, logits) / self.flops, self.read)
        moved = batch * self.work(tokens).forward_bytes / self.rates.bandwidth
        return max(arithmetic + moved, self._at_least)

    @property
    def _at_least(self) -> float:
        """Of any pass: sending the blocks, or starting their operations."""
        return max(pass_bytes(self.settings, self.sizes) / self.link, self.sizes.layers * self.rates.launch)

    def perplexity(self, text_tokens: int) -> float:
        """A text's perplexities, by all protocols."""
        evaluated, total = self.settings.evaluated, 0.0
        window = min(evaluated.window, self.sizes.context)
        for protocol in evaluated.protocols if text_tokens else ():
            cut = windows(max(text_tokens, window), protocol, window, evaluated.stride)
            share = math.ceil(len(cut) / self.settings.num_ranks)
            batch = min(self.settings.windows_a_batch(window), share)
            scored = sum(one.num_scored for one in cut) / len(cut)
            total += math.ceil(share / batch) * self.forward(window, batch, scored + 1)
        return total

    def generation(self, num_prompts: int, prompt_tokens: int, num_ranks: int | None = None) -> float:
        """Completions of prompts, and their scores; each new token reads the weights, and keys and values so far.

        Args:
            num_prompts: How many.
            prompt_tokens: Length of each.
            num_ranks: How many share them; None for all.
        """
        evaluated, sizes = self.settings.evaluated, self.sizes
        share = math.ceil(num_prompts * evaluated.num_completions / (num_ranks or self.settings.num_ranks))
        if not share:
            return 0.0
        batch = min(self.settings.windows_a_batch(prompt_tokens + evaluated.max_new_tokens), share)
        length = prompt_tokens + evaluated.max_new_tokens / 2
        cache = batch * length * 2 * sizes.layers * sizes.key_width * self.settings.itemsize / self.rates.bandwidth
        # A token attends to all before it: the difference that one more makes.
        flops = sizes.forward_flops(length + 0.5) - sizes.forward_flops(length - 0.5) + sizes.forward_flops(0)
        token = max(batch * flops / self.flops, self.read + cache, self._at_least)
        batches = math.ceil(share / batch)
        new = (evaluated.max_new_tokens - 1) * token
        return batches * (self.forward(prompt_tokens, batch) + new) + share / self.rates.texts


def benchmark_seconds(rates: Rates, granularity: str, tokens: int) -> float:
    """What one sample of benchmarks/gpu.py takes by these rates.

    Args:
        rates: The GPU's.
        granularity: "neuron" or "weight".
        tokens: Length of the sample.
    """
    modules = "neurons" if granularity == "neuron" else "all"
    settings = Settings("single", 1, 1, "bfloat16", granularity, modules, batch_size=1, max_tokens=None)
    return elapsed(Pace(settings, Sizes(model_config(LLAMA_3_8B)), rates).step(tokens, 1))
