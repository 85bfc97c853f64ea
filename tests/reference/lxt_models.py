"""Models under LXT's own monkey patch, one sample at a time: abs(W * W.grad), mean over the samples, in float64.

It patches its whole process, so it runs in one of its own: `python lxt_models.py DIRECTORY VARIANT`, where DIRECTORY
holds ids.pt and a model in a folder by each `model_type`; each folder gets a scores_VARIANT.pt. LXT
2.1 imports under transformers 5 once the two modules of its that do not are empty, and the plain dict that it puts in
place of transformers' attention registry can be asked as that is. It imports nothing of the package.
"""

import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

# LXT's file for each, which is also transformers' module.
FILES = {"llama": "llama", "qwen2": "qwen2", "gpt2": "gpt2", "qwen3": "qwen3", "gemma3_text": "gemma3"}


class _Registry(dict[str, Any]):
    def get_interface(self, name: str, default: Any) -> Any:
        return self.get(name, default)


def patch(file: str, variant: str) -> None:
    for name, attributes in {
        "bert": ("modeling_bert", "attnLRP"),
        "vit_torch": ("vision_transformer", "cp_LRP"),
    }.items():
        stub = types.ModuleType(f"lxt.efficient.models.{name}")
        for attribute in attributes:
            setattr(stub, attribute, object())
        sys.modules[stub.__name__] = stub
    modeling = import_module(f"transformers.models.{file}.modeling_{file}")
    # A subclass of the registry cannot be changed in place, as the patch of CP-LRP does: it may as well be the dict.
    modeling.ALL_ATTENTION_FUNCTIONS = _Registry(modeling.ALL_ATTENTION_FUNCTIONS.items())
    from lxt.efficient import monkey_patch

    rules = import_module(f"lxt.efficient.models.{file}")
    monkey_patch(modeling, patch_map={"attnlrp": rules.attnLRP, "cp_lrp": rules.cp_LRP}[variant])
    modeling.ALL_ATTENTION_FUNCTIONS = _Registry(modeling.ALL_ATTENTION_FUNCTIONS)


def main(directory: Path, variant: str) -> None:
    samples = torch.load(directory / "ids.pt", weights_only=True)
    for family, file in FILES.items():
        model = AutoModelForCausalLM.from_pretrained(directory / family, dtype=torch.float64).eval()
        patch(file, variant)
        total: dict[str, torch.Tensor] = {}
        for sample in samples:
            model.zero_grad()
            model(input_ids=sample[None], use_cache=False).logits[0, -1].max().backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and parameter.ndim == 2:
                    total[name] = total.get(name, 0.0) + (parameter.detach() * parameter.grad).abs() / len(samples)
        torch.save(total, directory / family / f"scores_{variant}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
