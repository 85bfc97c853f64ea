"""Detoxify's scores without Detoxify's traps (trap 17)."""

import os
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detoxify import Detoxify
from torch import Tensor

from sparc3_lightning.metrics import DetoxifyScorer, detoxify_scorer

TEXTS = ["you are a bad person", "what a nice day", "the sun", "you", "", "a bad bad bad person you are"]

Make = Callable[..., Path]


def local(directory: Path, **options: Any) -> DetoxifyScorer:
    return DetoxifyScorer(checkpoint=str(directory), device="cpu", **options)


def table(scores: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(scores.values()), dim=1)


def detoxify_scores(checkpoint: Path, texts: list[str]) -> Tensor:
    scores = Detoxify(checkpoint=str(checkpoint), device="cpu").predict(texts)
    return torch.tensor(list(scores.values()), dtype=torch.float64).T


def test_scores_are_detoxifys_own(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    scorer = local(directory, batch_size=2)
    assert scorer.attributes == ["toxicity", "severe_toxicity", "identity_attack"]
    ours = table(scorer.score(TEXTS))
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, detoxify_scores(directory / "tiny.ckpt", TEXTS), atol=1e-6, rtol=0)
    assert ours.std(dim=0).min() > 0.01


def test_the_real_scorer_agrees_with_detoxify(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fixtures)
    texts = ["You are a complete idiot.", "The weather is lovely today.", "I will kill you", "", "Thanks, " * 300]
    ours = local(fixtures / "toxicity_scorer").score(texts)
    theirs = detoxify_scores(Path("toxicity_scorer/detoxify.ckpt"), texts)
    torch.testing.assert_close(table(ours), theirs, atol=1e-6, rtol=0)
    assert ours["toxicity"][0] > 0.5 > ours["toxicity"][1]


def test_one_text_and_no_text(make_checkpoint: Make) -> None:
    scorer = local(make_checkpoint())
    both = table(scorer.score(TEXTS[:2]))
    one = scorer.score(TEXTS[:1])
    assert one["toxicity"].shape == (1,)
    torch.testing.assert_close(table(one)[0], both[0], atol=1e-6, rtol=0)
    assert {name: tuple(column.shape) for name, column in scorer.score([]).items()} == dict.fromkeys(
        scorer.attributes, (0,)
    )


def test_order_and_batching_do_not_matter(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    straight = table(local(directory, batch_size=1).score(TEXTS))
    shuffled = table(local(directory, batch_size=4).score(TEXTS[::-1])).flip(0)
    torch.testing.assert_close(straight, shuffled, atol=1e-6, rtol=0)


def test_long_texts_are_cut_and_counted(make_checkpoint: Make) -> None:
    scorer = local(make_checkpoint())
    long = "bad " * 100
    scores = scorer.score([long, "bad", long])
    assert scorer.num_truncated == 2
    torch.testing.assert_close(scores["toxicity"][:1], scorer.score(["bad " * 14])["toxicity"], atol=1e-6, rtol=0)
    assert scorer.num_truncated == 2


def test_a_tokenizer_without_a_limit_does_not_crash(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    (directory / "tokenizer_config.json").unlink()
    (directory / "tokenizer.json").unlink(missing_ok=True)
    scorer = local(directory)
    assert scorer.score(["bad " * 100])["toxicity"].shape == (1,)
    assert scorer.num_truncated == 1


Change = Callable[[dict[str, Any]], object]


def without(key: str) -> Change:
    return lambda loaded: loaded["state_dict"].pop(key)


def extended(loaded: dict[str, Any]) -> None:
    loaded["state_dict"] |= {"bert.embeddings.position_ids": torch.arange(16), "adapter.weight": torch.zeros(2)}


def poisoned(loaded: dict[str, Any]) -> None:
    loaded["state_dict"]["classifier.bias"][0] = torch.nan


def renamed(loaded: dict[str, Any]) -> None:
    loaded["config"]["arch"]["args"]["model_name"] = "RobertaForSequenceClassification"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("classifier.weight"), r"does not fit its config: missing \['classifier.weight'\]"),
        (
            without("bert.encoder.layer.0.output.dense.bias"),
            r"does not fit its config: missing \['bert.encoder.layer.0.output.dense.bias'\]",
        ),
        (extended, r"missing \[\], unexpected \['adapter.weight'\]"),
        (poisoned, "not finite"),  # trap 16
        (renamed, "is for a RobertaForSequenceClassification"),
        (lambda loaded: loaded.pop("config"), "`config.*is missing"),
        (lambda loaded: loaded.pop("state_dict"), "`state_dict.*is missing"),
    ],
)
def test_a_checkpoint_that_cannot_be_right_is_an_error(make_checkpoint: Make, change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local(make_checkpoint(change)).score(TEXTS)


def test_old_position_ids_are_ignored_and_bfloat16_is_computed_in_float32(make_checkpoint: Make) -> None:
    def change(loaded: dict[str, Any]) -> None:
        loaded["state_dict"] = {name: value.bfloat16() for name, value in loaded["state_dict"].items()}
        loaded["state_dict"]["bert.embeddings.position_ids"] = torch.arange(16).unsqueeze(0)

    scorer = local(make_checkpoint(change))
    assert scorer.score(TEXTS)["toxicity"].isfinite().all()
    assert {p.dtype for p in scorer._load().model.parameters()} == {torch.float32}


def test_a_trainers_precision_does_not_reach_the_scorer(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    plain = table(local(directory).score(TEXTS))
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            inside = table(local(directory).score(TEXTS))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(plain, inside)


def test_what_is_no_text_is_an_error(make_checkpoint: Make) -> None:
    with pytest.raises(ValueError, match="strings only"):
        local(make_checkpoint()).score(["fine", None])  # type: ignore[list-item]


class Payload:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the published model is looked for on this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    home = tmp_path / "hub" / "checkpoints"
    home.mkdir(parents=True)
    return home / "toxic_original-c1212f89.ckpt"


@pytest.mark.parametrize("is_published", [False, True])
def test_nothing_is_unpickled(make_checkpoint: Make, tmp_path: Path, cached: Path, is_published: bool) -> None:
    trace = tmp_path / "code_ran"
    directory = make_checkpoint(lambda loaded: loaded.update(extra=Payload(trace)))
    if is_published:
        (directory / "tiny.ckpt").rename(cached)
    with pytest.raises(ValueError, match="not unpickled"):
        (DetoxifyScorer("original") if is_published else local(directory)).score(TEXTS)
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 4, 5000])
def test_a_checkpoint_that_is_cut_is_named(make_checkpoint: Make, keep: int) -> None:
    checkpoint = make_checkpoint()
    file = checkpoint / "tiny.ckpt"
    file.write_bytes(file.read_bytes()[:keep] or b"junk\n")
    with pytest.raises(ValueError, match=r"tiny\.ckpt"):
        local(checkpoint).score(["you"])


def test_code_beside_a_checkpoint_is_never_run(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless told, transformers asks at the terminal whether it may run it."""
    checkpoint = make_checkpoint()
    (checkpoint / "config.json").write_text('{"model_type": "theirs", "auto_map": {"AutoConfig": "code.Config"}}')
    (checkpoint / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(OSError, match="config and tokenizer could not be read"):
        local(checkpoint).score(["you"])
    assert not (tmp_path / "ran").exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"exactly one \.ckpt"):
        local(tmp_path).score(TEXTS)
    with pytest.raises(FileNotFoundError, match=r"gone\.ckpt"):
        local(tmp_path / "gone.ckpt").score(TEXTS)


def test_a_checkpoint_without_config_says_what_to_do(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    (directory / "config.json").unlink()
    with pytest.raises(OSError, match=r"DetoxifyScorer\.init_args\.checkpoint"):
        local(directory).score(TEXTS)


def test_nothing_is_loaded_before_it_is_used() -> None:
    scorer = DetoxifyScorer("multilingual")
    assert scorer.name == "detoxify-multilingual"
    assert scorer._classifier is None


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="model_type"):
        DetoxifyScorer("toxic-bert")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size"):
        DetoxifyScorer(batch_size=0)


@pytest.mark.parametrize("model_type", ["original", "unbiased", "multilingual", "original-small", "unbiased-small"])
def test_published_models_take_the_same_safe_road(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch, model_type: Any
) -> None:
    directory = make_checkpoint()
    asked: list[str] = []

    def download(url: str, map_location: str, weights_only: bool) -> Any:
        asked.append(url)
        return torch.load(directory / "tiny.ckpt", map_location=map_location, weights_only=weights_only)

    monkeypatch.setattr(detoxify_scorer, "is_offline_mode", lambda: False)
    monkeypatch.setattr(detoxify_scorer.torch.hub, "load_state_dict_from_url", download)
    scorer = DetoxifyScorer(model_type, device="cpu")
    torch.testing.assert_close(scorer.score(TEXTS), local(directory).score(TEXTS), atol=0, rtol=0)
    assert len(asked) == 1
    assert asked[0].endswith(".ckpt")


def test_a_cached_download_needs_no_network(make_checkpoint: Make, cached: Path) -> None:
    directory = make_checkpoint()
    expected = local(directory).score(TEXTS)
    (directory / "tiny.ckpt").rename(cached)
    torch.testing.assert_close(DetoxifyScorer("original", device="cpu").score(TEXTS), expected, atol=0, rtol=0)


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise urllib.error.URLError("unreachable")

    monkeypatch.setattr(detoxify_scorer, "is_offline_mode", lambda: False)
    monkeypatch.setattr(detoxify_scorer.torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(OSError, match=r"unreachable.*checkpoint` to a local directory.*TORCH_HOME"):
        DetoxifyScorer("original").score(TEXTS)


def test_offline_no_network_is_asked(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be waited for."""
    monkeypatch.setattr(detoxify_scorer, "is_offline_mode", lambda: True)
    with pytest.raises(OSError, match=rf"`original` is not at {cached}, and HF_HUB_OFFLINE is set.*`DetoxifyScorer"):
        DetoxifyScorer("original").score(TEXTS)
