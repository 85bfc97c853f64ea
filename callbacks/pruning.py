"""Pruning: combine the scores, take the differential, select the neurons, save the recipe and the pruned model."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

from lightning.pytorch import Callback, Trainer

from callbacks.base import RunCallback, model_setting
from callbacks.baselines import BaselineCallback
from sparc3_lightning.data.tokens import check_vocabulary, encode
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.evaluation.passes import describe_passes
from sparc3_lightning.models.families import get_family
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import announce, inform
from sparc3_lightning.pruning.passages import Passage
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.save import save_pruned_model
from sparc3_lightning.pruning.screen import ScreenData, Screened
from sparc3_lightning.pruning.select import SCOPES, Scope, check_num_neurons, scores_of, select_neurons
from sparc3_lightning.report.terminal import print_predictions
from sparc3_lightning.runs.results import PredictionsResult
from sparc3_lightning.scoring.combine import Penalty, check_general, differential
from sparc3_lightning.scoring.saving import save_together, share_summaries
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials.screening import (
    KeptFigures,
    Predictions,
    ScoredResponses,
    Screen,
    check_chosen,
    describe_screen,
    predict_effects,
    price_passages,
    screened_recipe,
    word_passages,
    write_predictions,
    write_screen,
)
from sparc3_lightning.trials.store import TRIALS_DIR
from sparc3_lightning.version import __version__


class PruningCallback(RunCallback):
    """Selects after attribution; writes `pruned_neurons.json`, `scores/differential/` and, if asked, `pruned_model/`.

    With a screen, each method that was scored before is held against what removal did: list the baseline callback, if
    any, before this one.

    Args:
        num_neurons: How many neurons go.
        scope: Where scores compete: "global" or "layer".
        general_weight: Weight g >= 1 of general relevance; 1 is the paper.
        general_penalty: "raw" (the paper) or "abs".
        screen: Verify by removal: measure what removing each of the first candidates alone does to the words of the
            behaviour (where none is known, to the evaluator's score of completions of its prompts), to ordinary words
            and to text, and choose among them; null for no screen.
        save_model: Also save the pruned model as a Hugging Face directory, with tokenizer and model card.
    """

    def __init__(
        self,
        num_neurons: int = 100,
        scope: Scope = "global",
        general_weight: float = 1.0,
        general_penalty: Penalty = "raw",
        screen: Screen | None = None,
        save_model: bool = False,
    ) -> None:
        if scope not in SCOPES:
            raise ValueError(f"`scope` must be one of {SCOPES}, got {scope!r}. Set `PruningCallback.init_args.scope`.")
        check_general(general_weight, general_penalty)
        self.num_neurons, self.scope = num_neurons, scope
        self.general_weight, self.general_penalty = general_weight, general_penalty
        self.screen, self.save_model = screen, save_model

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse, before hours of attribution, what could not be selected after them."""
        config, run, data = module.lm.config, module.run, module.data
        run.general, run.behaviour = data.differential_names()
        if trainer.is_global_zero:
            data.warn_of_shared_samples([*run.general, run.behaviour])
        total = get_family(config.model_type).total_neurons(config)
        check_num_neurons(self.num_neurons, total)
        if self.screen is not None:
            check_num_neurons(self.screen.num_candidates, total, "screen.num_candidates")
            if self.screen.num_candidates < self.num_neurons:
                raise ValueError(
                    f"`screen.num_candidates` must be at least `num_neurons` = {self.num_neurons}, got "
                    f"{self.screen.num_candidates}. Set `PruningCallback.init_args.screen.num_candidates`."
                )
            self._foretell(trainer, module, self._screen_data(module, self.screen), self.screen)
            self._warn_of_later_methods(trainer)

    def _foretell(self, trainer: Trainer, module: SparC3Module, data: ScreenData, screen: Screen) -> None:
        """Refuse prompts that could not be continued, and say what it takes where each candidate is a generation."""
        if isinstance(data.behaviour, ScoredResponses):
            passes = data.behaviour.check(module.lm)
            num = screen.num_candidates + 2  # once as it is, and once without all that are chosen
            inform(trainer, describe_passes(passes, num, "each without one neuron", "screen"))

    def _warn_of_later_methods(self, trainer: Trainer) -> None:
        listed: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # Lightning sets it from elsewhere
        later = listed[listed.index(self) :] if self in listed else []
        if trainer.is_global_zero and any(isinstance(one, BaselineCallback) for one in later):
            warnings.warn(
                "the screen holds no other method against what removal does: `trainer.callbacks` lists "
                "`callbacks.BaselineCallback` after `callbacks.PruningCallback`. List it before.",
                stacklevel=2,
            )

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Take the differential, select on rank 0, tell every rank, save."""
        log_dir, run = module.log_dir, module.run
        with run.timed("selection"):
            general, behaviour = [run.score_sets[name] for name in run.general], run.score_sets[str(run.behaviour)]
            contrast = differential(general, behaviour, self.general_weight, self.general_penalty)
            run.differential = save_together(contrast, log_dir / "scores" / "differential", module.device)
            # Each rank has read its share of every set: what all of them know makes the selection and its checks.
            share_summaries([*run.score_sets.values(), run.differential])
            run.recipe = from_rank_zero(partial(self._select, run.differential))
        if self.screen is not None:
            with run.timed("screen"):
                run.recipe = self._screened(module, self.screen, run.recipe)
        from_rank_zero(partial(run.recipe.save, log_dir))
        if self.save_model:
            announce(module.trainer, "saving the pruned model")
            with run.timed("saving the pruned model"):
                save_pruned_model(
                    module.lm, module.tokenizer, run.recipe, log_dir / "pruned_model", check_base=False,
                    dtype=module.weights_dtype,
                )  # fmt: skip

    def show(self, module: SparC3Module, stage: str) -> None:
        """Print which method's scores predict what removal did."""
        if module.run.predictions is not None:
            print_predictions(cast("PredictionsResult", asdict(module.run.predictions)))

    def _select(self, contrast: ScoreSet) -> Recipe:
        if self.screen is None:
            return select_neurons(contrast, self.num_neurons, self.scope)
        return select_neurons(contrast, self.screen.num_candidates, self.scope, "screen.num_candidates")

    def _screen_data(self, module: SparC3Module, screen: Screen) -> ScreenData:
        """What candidates are measured on: what was attributed, and text that was not.

        Raises:
            ValueError: No words and no scorer; or not enough text.
        """
        price = self._price(module, screen)
        behaviour = str(module.run.behaviour)
        samples, key = module.data.reference_samples[behaviour], module.data.key_of(behaviour)
        if not samples.following:
            return ScreenData(ScoredResponses(module.evaluator, module.tokenizer, samples, key), price=price)
        words = self._words(module)
        return ScreenData(words.pop(behaviour), [one for passages in words.values() for one in passages], price)

    def _words(self, module: SparC3Module) -> dict[str, list[Passage]]:
        """Words of the behaviour and of what it is contrasted with, by set."""
        data, run = module.data, module.run
        words = {name: word_passages(data.reference_samples[name]) for name in (str(run.behaviour), *run.general)}
        for name, passages in words.items():
            if len(passages) < 2:
                raise ValueError(
                    f"`screen` needs words to measure, at least two, got {len(passages)} of `{data.key_of(name)}`. Set "
                    "it to WordsThatMatter, OrdinaryWords or C4, and `model.target: next_token`."
                )
        return words

    def _price(self, module: SparC3Module, screen: Screen) -> list[Passage]:
        """Text to tell a price by."""
        data = module.data
        if not data.price_rows:
            raise ValueError("`screen` needs text to tell a price by, got none. Set `data.price`.")
        num_tokens = math.ceil(screen.num_price_tokens / len(data.price_rows))  # as much of each
        price = [
            passage
            for name, rows in data.price_rows.items()
            for passage in price_passages(name, rows, partial(encode, module.tokenizer), num_tokens, module.max_length)
        ]
        for passage in price:
            check_vocabulary(passage.ids.tolist(), module.vocab_size, "`data.price`")
        return price

    def _screened(self, module: SparC3Module, screen: Screen, candidates: Recipe) -> Recipe:
        """Screen the candidates on all ranks; rank 0 writes the table."""
        log_dir, data = module.log_dir, self._screen_data(module, screen)
        key = {**data.key(), **model_setting(module), "version": __version__, "max_tokens": screen.max_tokens}
        kept = KeptFigures(Path(module.trials_dir or log_dir / TRIALS_DIR), key)
        with module.evaluator.precision(), kept:
            recipe, screened, joint = screened_recipe(
                module.lm, candidates, self.num_neurons, data, screen, kept, module.progress
            )
        from_rank_zero(partial(write_screen, log_dir, candidates, screened, recipe))
        module.run.predictions = from_rank_zero(partial(self._predicted, module, candidates, screened, data.unit))
        if module.trainer.is_global_zero:
            print(describe_screen(screened, joint, self.num_neurons, data.unit))
        check_chosen(recipe, screened)
        return recipe

    def _predicted(
        self, module: SparC3Module, candidates: Recipe, screened: Sequence[Screened], unit: str
    ) -> Predictions:
        """Hold every method of the run against what removal did, and write the table; rank 0 has the scores."""
        run, contrast = module.run, (self.general_weight, self.general_penalty)
        scores: dict[str, list[float]] = {run.main_key: candidates.scores}
        for key, found in run.scores.items():
            if key not in scores and (found.sets or found.ranking is not None):
                scores[key] = scores_of(found.contrast(run.general, str(run.behaviour), *contrast), candidates.neurons)
        test = module.evaluator.paired_test
        predictions = predict_effects(screened, scores, run.main_key, self.num_neurons, test, unit)
        write_predictions(module.log_dir, predictions)
        return predictions
