"""How a model is trained: AdamW, a linear warm-up, a cosine to zero."""

import math
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def adamw(
    model: nn.Module,
    num_steps: int,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    warmup_steps: int,
) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW without decay on norms and biases, and its schedule: linear warm-up, cosine to zero.

    Args:
        model: What is trained.
        num_steps: How many steps there are.
        lr: Peak learning rate.
        weight_decay: Of matrices.
        betas: Momenta.
        warmup_steps: Steps of the warm-up.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas)
    share = partial(_warmup_cosine, num_warmup=min(warmup_steps, num_steps), num_steps=num_steps)
    return optimizer, LambdaLR(optimizer, share)


def _warmup_cosine(step: int, num_warmup: int, num_steps: int) -> float:
    """Share of the peak learning rate at a step: a linear warm-up, then half a cosine to zero.

    `get_cosine_schedule_with_warmup` of transformers gives the same, but its module imports the whole of its Trainer,
    and with it peft and bitsandbytes, which warns on machines without a GPU.
    """
    if step < num_warmup:
        return step / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
