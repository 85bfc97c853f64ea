"""GPT-2 under LXT's own monkey patch, one sample at a time: abs(W * W.grad), mean over the samples, in float64.

It patches its whole process, so it runs in one of its own: `python lxt_gpt2.py MODEL_DIR IDS.pt SCORES.pt VARIANT`. LXT
2.1 imports under transformers 5 once the two modules of its that do not are empty, and the plain dict that it puts in
place of transformers' attention registry can be asked as that is. It imports nothing of the package.
"""

import sys
import types
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.gpt2 import modeling_gpt2


class _Registry(dict[str, Any]):
    def get_interface(self, name: str, default: Any) -> Any:
        return self.get(name, default)


def patch(variant: str) -> None:
    for name, attributes in {
        "bert": ("modeling_bert", "attnLRP"),
        "vit_torch": ("vision_transformer", "cp_LRP"),
    }.items():
        stub = types.ModuleType(f"lxt.efficient.models.{name}")
        for attribute in attributes:
            setattr(stub, attribute, object())
        sys.modules[stub.__name__] = stub
    # A subclass of the registry cannot be changed in place, as the patch of CP-LRP does: it may as well be the dict.
    modeling_gpt2.ALL_ATTENTION_FUNCTIONS = _Registry(modeling_gpt2.ALL_ATTENTION_FUNCTIONS.items())
    from lxt.efficient import monkey_patch
    from lxt.efficient.models import gpt2

    monkey_patch(modeling_gpt2, patch_map={"attnlrp": gpt2.attnLRP, "cp_lrp": gpt2.cp_LRP}[variant])
    modeling_gpt2.ALL_ATTENTION_FUNCTIONS = _Registry(modeling_gpt2.ALL_ATTENTION_FUNCTIONS)


def main(directory: str, ids: str, scores: str, variant: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    patch(variant)
    samples, total = torch.load(ids, weights_only=True), {}
    for sample in samples:
        model.zero_grad()
        model(input_ids=sample[None], use_cache=False).logits[0, -1].max().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and parameter.ndim == 2:
                total[name] = total.get(name, 0.0) + (parameter.detach() * parameter.grad).abs() / len(samples)
    torch.save(total, scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
