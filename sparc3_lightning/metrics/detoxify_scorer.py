"""Detoxify's classifiers, read without unpickling and behind the one scorer interface.

Detoxify itself unpickles its checkpoints, loads random weights where a classifier key is missing, follows the dtype
of the file, crashes on long texts without a tokenizer limit and returns a bare float for one text. Here the same
checkpoint gives the same scores through a route that has none of these.
"""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import is_offline_mode
from torch import Tensor, nn

from sparc3_lightning.metrics.scorers import Scorer

DetoxifyType = Literal["original", "unbiased", "multilingual", "original-small", "unbiased-small"]

_STANDARD_NAMES = {"toxic": "toxicity", "identity_hate": "identity_attack", "severe_toxic": "severe_toxicity"}
# Old checkpoints hold what today's classes no longer keep; neither takes part in the scores.
_UNUSED_KEYS = (".position_ids", "roberta.pooler.dense.weight", "roberta.pooler.dense.bias")
_OFFLINE_HELP = (
    "Set `DetoxifyScorer.init_args.checkpoint` to a local directory that holds the .ckpt file with its config.json and "
    "tokenizer files, or run once where the network can be reached (TORCH_HOME and HF_HOME say where the copies are "
    "kept; they serve offline runs)."
)


@dataclass(frozen=True)
class Classifier:
    """A loaded checkpoint: module, tokenizer, attribute names and the longest text in tokens."""

    model: nn.Module
    tokenizer: Any
    attributes: list[str]
    max_length: int


class DetoxifyScorer(Scorer):
    """Scores texts as Detoxify does.

    Args:
        model_type: One of Detoxify's published models, downloaded on first use; ignored where `checkpoint` is given.
        checkpoint: A local directory with one .ckpt file in Detoxify's format, config.json and tokenizer files (or
            that .ckpt file itself).
        device: Where it runs; `auto` takes the GPU where there is one.
        batch_size: Texts in one forward pass.
        max_length: Longest text in tokens; never above what the classifier can read. Longer ones are cut and counted
            in `num_truncated`.
    """

    def __init__(
        self,
        model_type: DetoxifyType = "original",
        checkpoint: str | None = None,
        device: str = "auto",
        batch_size: int = 32,
        max_length: int = 512,
    ) -> None:
        if checkpoint is None and model_type not in get_args(DetoxifyType):
            raise ValueError(
                f"`model_type` must be one of {list(get_args(DetoxifyType))}, got {model_type!r}. "
                "Set `DetoxifyScorer.init_args.model_type`."
            )
        if batch_size < 1 or max_length < 3:
            raise ValueError(
                f"`batch_size` must be at least 1 and `max_length` at least 3, got {batch_size} and {max_length}. "
                "Set them under `DetoxifyScorer.init_args`."
            )
        self.name = f"detoxify-{model_type if checkpoint is None else Path(checkpoint).name}"
        self.num_truncated = 0
        self._model_type, self._checkpoint = model_type, checkpoint
        self._device, self._batch_size, self._max_length = device, batch_size, max_length
        self._classifier: Classifier | None = None

    @property
    def attributes(self) -> list[str]:
        """Detoxify's class names, standardised; loads the classifier."""
        return self._load().attributes

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Score texts in batches of similar length; see `Scorer.score`.

        Raises:
            ValueError: A text is not a string, or a score is not finite.
        """
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("`texts` must be strings only; a missing completion cannot be scored.")
        classifier = self._load()
        scores = torch.empty(len(texts), len(classifier.attributes), dtype=torch.float64)
        for order, batch in self._batches(classifier, texts):
            scores[order] = _forward(classifier, batch)
        if not scores.isfinite().all():
            raise ValueError(f"scorer `{self.name}` returned a score that is not finite: its weights are broken.")
        return dict(zip(classifier.attributes, scores.unbind(1), strict=True))

    def _batches(self, classifier: Classifier, texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
        if not texts:
            return
        ids = classifier.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        self.num_truncated += sum(len(row) > classifier.max_length for row in ids)
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            yield chosen, [texts[i] for i in chosen]

    def _load(self) -> Classifier:
        if self._classifier is None:
            device = _pick_device(self._device)
            self._classifier = load_classifier(self._model_type, self._checkpoint, device, self._max_length)
        return self._classifier


@torch.no_grad()
def _forward(classifier: Classifier, texts: list[str]) -> Tensor:
    device = next(classifier.model.parameters()).device
    inputs = classifier.tokenizer(
        texts, return_tensors="pt", truncation=True, max_length=classifier.max_length, padding=True
    ).to(device)
    # A trainer in mixed precision would otherwise score in bfloat16, which moves scores by 1e-3.
    with torch.autocast(device.type, enabled=False):
        logits = classifier.model(**inputs)[0]
    return torch.sigmoid(logits)[:, : len(classifier.attributes)].double().cpu()


def load_classifier(model_type: str, checkpoint: str | None, device: torch.device, max_length: int) -> Classifier:
    """Read a Detoxify checkpoint safely and strictly.

    Args:
        model_type: Published model, where `checkpoint` is None.
        checkpoint: Local directory or .ckpt file.
        device: Where the module goes.
        max_length: Wanted length limit in tokens.

    Returns:
        The classifier in float32 and evaluation mode.

    Raises:
        FileNotFoundError: No checkpoint there.
        OSError: A download failed; the message says what to do offline.
        ValueError: Not a Detoxify checkpoint, or its weights do not fit its config.
    """
    if checkpoint is None:
        loaded, where = _download(model_type)
        source = _section(loaded, "config", "arch", "args", where=where)["model_type"]
    else:
        file = _find_file(Path(checkpoint))
        where, source = str(file), str(file.parent)
        loaded = _read(file)
    arch = _section(loaded, "config", "arch", "args", where=where)
    classes = _section(loaded, "config", "dataset", "args", where=where)["classes"]
    config, tokenizer = _config_and_tokenizer(source, arch["num_classes"], local=checkpoint is not None)
    model = _build(config, arch["model_name"], _section(loaded, "state_dict", where=where), where)
    attributes = [_STANDARD_NAMES.get(name, name) for name in classes]
    if arch["num_classes"] < len(attributes):
        raise ValueError(f"{where} names {len(attributes)} classes but its model has {arch['num_classes']} outputs.")
    return Classifier(model.to(device).eval(), tokenizer, attributes, _limit(config, tokenizer, max_length))


def _find_file(path: Path) -> Path:
    found = sorted(path.glob("*.ckpt")) if path.is_dir() else [path]
    if len(found) != 1 or not found[0].is_file():
        raise FileNotFoundError(
            f"`checkpoint` must be a directory with exactly one .ckpt file, or that file; {path} has {len(found)} or "
            "is missing. Set `DetoxifyScorer.init_args.checkpoint`."
        )
    return found[0]


def _read(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds more than tensors and plain values, and is not unpickled: that could run its code. "
            "Use a checkpoint saved with plain containers. Set `DetoxifyScorer.init_args.checkpoint`."
        ) from error
    # A file that is cut or no checkpoint at all: torch raises whatever its reader stumbles over.
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, IndexError) as error:
        raise ValueError(
            f"{file} is no readable checkpoint ({type(error).__name__}): it is cut or damaged. "
            "Set `DetoxifyScorer.init_args.checkpoint`."
        ) from error


def _download(model_type: str) -> tuple[Any, str]:
    from detoxify.detoxify import MODEL_URLS

    url = MODEL_URLS[model_type]
    file = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if is_offline_mode() and not file.is_file():
        raise OSError(f"Detoxify's `{model_type}` is not at {file}, and HF_HUB_OFFLINE is set. {_OFFLINE_HELP}")
    try:
        loaded = torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OSError(f"Detoxify's `{model_type}` could not be downloaded ({error}). {_OFFLINE_HELP}") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Detoxify's `{model_type}` holds more than tensors and plain values, and is not unpickled. {_OFFLINE_HELP}"
        ) from error
    return loaded, f"Detoxify's `{model_type}`"


def _section(loaded: Any, *keys: str, where: str) -> Any:
    for key in keys:
        if not isinstance(loaded, dict) or key not in loaded:
            raise ValueError(
                f"{where} is not a checkpoint in Detoxify's format: `{'.'.join(keys)}` is missing. "
                "Set `DetoxifyScorer.init_args.checkpoint`."
            )
        loaded = loaded[key]
    return loaded


def _config_and_tokenizer(source: str, num_classes: int, local: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    # Code that comes with a checkpoint never runs; unless told so, transformers asks at the terminal whether it may.
    options = {"local_files_only": local, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, num_labels=num_classes, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    # transformers raises ValueError for a directory without a config.json.
    except (OSError, ValueError) as error:
        raise OSError(f"the scorer's config and tokenizer could not be read from {source}. {_OFFLINE_HELP}") from error
    return config, tokenizer


def _build(config: Any, class_name: str, state_dict: dict[str, Tensor], where: str) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    # float32 by name: inside a trainer's precision context the default dtype may be bfloat16.
    model: nn.Module = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    if type(model).__name__ != class_name:
        raise ValueError(f"{where} is for a {class_name}, but the config beside it builds a {type(model).__name__}.")
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    unexpected = [key for key in unexpected if not key.endswith(_UNUSED_KEYS)]
    if missing or unexpected:
        raise ValueError(
            f"{where} does not fit its config: missing {missing[:4]}, unexpected {unexpected[:4]}. With random weights "
            "in their place the scores would mean nothing. Set `DetoxifyScorer.init_args.checkpoint`."
        )
    return model


def _limit(config: Any, tokenizer: Any, wanted: int) -> int:
    # RoBERTa counts positions from the padding id on.
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return int(min(wanted, tokenizer.model_max_length, config.max_position_embeddings - offset))


def _pick_device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
