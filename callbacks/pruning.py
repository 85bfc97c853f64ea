"""Pruning: combine the scores, take the differentials, select the neurons, save recipes and pruned models."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import cast

from lightning.pytorch import Trainer

from callbacks.base import RunCallback, model_setting
from callbacks.baselines import BaselineCallback
from sparc3_lightning.data.tokens import check_vocabulary, encode
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.evaluation.passes import describe_passes
from sparc3_lightning.lrp.attribution import Granularity
from sparc3_lightning.models.families import get_family
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import announce, inform
from sparc3_lightning.pruning.aims import Aim, RecipeKind, aimed_contrast, aims_of
from sparc3_lightning.pruning.masks import check_sparsity
from sparc3_lightning.pruning.passages import Passage
from sparc3_lightning.pruning.save import save_pruned_model
from sparc3_lightning.pruning.screen import ScreenData, Screened
from sparc3_lightning.pruning.select import (
    SCOPES,
    Scope,
    check_num_neurons,
    scores_of,
    select_candidates,
    select_neurons,
)
from sparc3_lightning.pruning.select_weights import SPARSITY_KEY, row_scores, select_weights
from sparc3_lightning.pruning.weight_recipe import AnyRecipe, WeightRecipe
from sparc3_lightning.report.terminal import print_overlaps, print_predictions
from sparc3_lightning.runs.results import PredictionsResult
from sparc3_lightning.runs.run import Run
from sparc3_lightning.scoring.combine import MethodScores, Penalty, check_general, differential
from sparc3_lightning.scoring.saving import save_together, share_summaries
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials import OVERLAP_FILE
from sparc3_lightning.trials.behaviours import Row, compare_behaviours, write_rows
from sparc3_lightning.trials.screening import (
    KeptFigures,
    Predictions,
    ScoredResponses,
    Screen,
    check_chosen,
    describe_screen,
    num_in_both,
    predict_effects,
    price_passages,
    screened_recipe,
    word_passages,
    write_predictions,
    write_screen,
)
from sparc3_lightning.trials.store import TRIALS_DIR
from sparc3_lightning.version import __version__

DIFFERENTIAL = Path("scores", "differential")


class PruningCallback(RunCallback):
    """Selects after attribution; writes `pruned_neurons.json`, `scores/differential/` and, if asked, `pruned_model/`.

    With `sparsity`, single weights go in the place of neurons: `pruned_weights.json` counts them by layer, and
    `pruned_weights.safetensors` names each. It needs `model.granularity: weight`.

    With a screen, each method that was scored before is held against what removal did: list the baseline callback, if
    any, before this one.

    Of several `data.behaviours` each has a differential, `scores/differential/NAME/`, and each recipe a directory,
    `recipes/NAME/`; what stands in the run's own directory is the first recipe's.

    Args:
        num_neurons: How many neurons go, in each recipe; null for 100, or with `sparsity`.
        scope: Where scores compete: "global" or "layer".
        general_weight: Weight g >= 1 of general relevance; 1 is the paper.
        general_penalty: "raw" (the paper) or "abs".
        screen: Verify by removal: measure what removing each of the first candidates alone does to the words of the
            behaviour (where none is known, to the evaluator's score of completions of its prompts), to ordinary words
            and to text, and choose among them; null for no screen.
        save_model: Also save the pruned model as a Hugging Face directory, with tokenizer and model card.
        recipes: Which recipes are made of several behaviours: "each" (one for each; the default), "all" (one for all,
            by the mean of their differentials: what serves one much may outweigh what serves each a little), "shared"
            (one for all, by the highest of their differentials: below 0 a neuron serves each of them).
        specific_to: Behaviours that a recipe of specific neurons, or weights, is made for, besides: below 0 one serves
            no other behaviour as much.
        sparsity: In the place of `num_neurons`, which share of all attributed weights goes, element by element.
    """

    def __init__(
        self,
        num_neurons: int | None = None,
        scope: Scope = "global",
        general_weight: float = 1.0,
        general_penalty: Penalty = "raw",
        screen: Screen | None = None,
        save_model: bool = False,
        recipes: list[RecipeKind] | None = None,
        specific_to: list[str] | None = None,
        sparsity: float | None = None,
    ) -> None:
        if scope not in SCOPES:
            raise ValueError(f"`scope` must be one of {SCOPES}, got {scope!r}. Set `PruningCallback.init_args.scope`.")
        check_general(general_weight, general_penalty)
        if sparsity is not None:
            check_sparsity(sparsity, "sparsity", SPARSITY_KEY)
            if num_neurons is not None:
                raise ValueError(
                    f"`sparsity` goes in the place of `num_neurons`, got both, {sparsity} and {num_neurons}. Set "
                    "`PruningCallback.init_args.num_neurons: null`, or `sparsity`."
                )
        self.num_neurons = 100 if num_neurons is None and sparsity is None else num_neurons
        self.sparsity, self.scope = sparsity, scope
        self.general_weight, self.general_penalty = general_weight, general_penalty
        self.screen, self.save_model = screen, save_model
        self.recipes, self.specific_to = ["each"] if recipes is None else recipes, specific_to or []

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse, before hours of attribution, what could not be selected after them."""
        config, run, data = module.lm.config, module.run, module.data
        differentials = data.differentials()
        run.aims = aims_of(differentials, self.recipes, self.specific_to, data.attributes())
        run.general, run.behaviour = [*run.aims[0].general], run.aims[0].behaviours[0]
        if trainer.is_global_zero:
            named = (name for behaviour, general in differentials.items() for name in (*general, behaviour))
            data.warn_of_shared_samples(dict.fromkeys(named))
        if self.num_neurons is None:
            _check_weights(module)
        else:
            self._check_numbers(self.num_neurons, get_family(config.model_type).total_neurons(config))
        if self.screen is not None:
            for aim in run.aims:
                self._foretell(trainer, module, self._screen_data(module, self.screen, aim), self.screen)
            self._warn_of_later_methods(trainer)

    def _check_numbers(self, num_neurons: int, total: int) -> None:
        check_num_neurons(num_neurons, total)
        if self.screen is not None:
            check_num_neurons(self.screen.num_candidates, total, "screen.num_candidates")
            if self.screen.num_candidates < num_neurons:
                raise ValueError(
                    f"`screen.num_candidates` must be at least `num_neurons` = {num_neurons}, got "
                    f"{self.screen.num_candidates}. Set `PruningCallback.init_args.screen.num_candidates`."
                )

    def _foretell(self, trainer: Trainer, module: SparC3Module, data: ScreenData, screen: Screen) -> None:
        """Refuse prompts that could not be continued, and say what it takes where each candidate is a generation."""
        if isinstance(data.behaviour, ScoredResponses):
            passes = data.behaviour.check(module.lm)
            num = screen.num_candidates + 2  # once as it is, and once without all that are chosen
            without = "one neuron" if self.sparsity is None else "the selected weights of one row"
            inform(trainer, describe_passes(passes, num, f"each without {without}", "screen"))

    def _warn_of_later_methods(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.is_before(trainer, BaselineCallback):
            warnings.warn(
                "the screen holds no other method against what removal does: `trainer.callbacks` lists "
                "`callbacks.BaselineCallback` after `callbacks.PruningCallback`. List it before.",
                stacklevel=2,
            )

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Take the differentials, select on rank 0, tell every rank, save."""
        log_dir, run = module.log_dir, module.run
        with run.timed("selection"):
            found = self._differentials(module)
            if len(found) > 1:
                for aim in run.aims:
                    run.part(aim)
            for one, _ in run.by_recipe(log_dir):
                one.differential = found[str(one.behaviour)]
                one.recipe = from_rank_zero(partial(self._select, one, found, log_dir / DIFFERENTIAL))
        if self.screen is not None:
            with run.timed("screen"):
                self._screen_all(module, self.screen)
        for one, directory in run.by_recipe(log_dir):
            self._save(module, one, directory)
        if run.parts:
            run.adopt_first()
            assert run.recipe is not None
            from_rank_zero(partial(run.recipe.save, log_dir))
            run.comparison = from_rank_zero(partial(self._compared, module, found))

    def _differentials(self, module: SparC3Module) -> dict[str, ScoreSet]:
        """Take and save the differential of each behaviour; every rank knows of all scores what a selection needs."""
        run, home = module.run, module.log_dir / DIFFERENTIAL
        named, found = module.data.differentials(), dict[str, ScoreSet]()
        for behaviour, names in named.items():
            general = [run.score_sets[name] for name in names]
            contrast = differential(general, run.score_sets[behaviour], self.general_weight, self.general_penalty)
            directory = home / behaviour if len(named) > 1 else home
            found[behaviour] = save_together(contrast, directory, module.device)
        # Each rank has read its share of every set: what all of them know makes the selection and its checks.
        share_summaries([*run.score_sets.values(), *found.values()])
        return found

    def _save(self, module: SparC3Module, one: Run, directory: Path) -> None:
        assert one.recipe is not None
        from_rank_zero(partial(directory.mkdir, parents=True, exist_ok=True))
        from_rank_zero(partial(one.recipe.save, directory))
        if self.save_model:
            announce(module.trainer, "saving the pruned model")
            with module.run.timed("saving the pruned model"):
                save_pruned_model(
                    module.lm, module.tokenizer, one.recipe, directory / "pruned_model", check_base=False,
                    dtype=module.weights_dtype,
                )  # fmt: skip

    def show(self, module: SparC3Module, stage: str) -> None:
        """Print which method's scores predict what removal did; of several behaviours, how far they agree."""
        run = module.run
        if run.comparison:
            print_overlaps(run.comparison)
        elif run.predictions is not None:
            print_predictions(cast("PredictionsResult", asdict(run.predictions)))

    def _select(self, one: Run, found: Mapping[str, ScoreSet], home: Path) -> AnyRecipe:
        """Select a recipe's neurons or weights; what only this recipe is selected from is saved too."""
        contrast, aim = one.differential, one.aim
        assert contrast is not None
        if aim is not None and aim.kind != "each":
            contrast = self._aimed(aim, found, one.score_sets)
            contrast = one.differential = contrast.reopened(contrast.save(home / aim.name))
        if self.sparsity is not None:
            return select_weights(contrast, self.sparsity, self.scope)
        assert self.num_neurons is not None
        if self.screen is not None:
            return select_candidates(contrast, self.screen.num_candidates, self.num_neurons, self.scope)
        return select_neurons(contrast, self.num_neurons, self.scope)

    def _compared(self, module: SparC3Module, found: Mapping[str, ScoreSet]) -> list[Row]:
        """How far the behaviours agree, on rank 0."""
        run, data = module.run, module.data
        sizes, recipes = set[int](), dict[str, AnyRecipe]()
        if self.num_neurons is not None:  # of weights a screen's candidates are rows
            sizes = {self.num_neurons, self.num_neurons if self.screen is None else self.screen.num_candidates}
        if self.screen is not None:
            recipes = {name: one.recipe for name, one in run.parts.items() if name in found and one.recipe is not None}
        general, pairs = data.differentials(), list(combinations(found, 2))
        texts = {(one, other): len(data.shared_texts([one], [other])) for one, other in pairs}
        ordinary = {(one, other): len(data.shared_texts(general[one], general[other])) for one, other in pairs}
        rows = compare_behaviours(found, sorted(sizes), self.scope, recipes, texts, self.sparsity, ordinary)
        write_rows(rows, module.log_dir / OVERLAP_FILE)
        return rows

    def _screen_data(self, module: SparC3Module, screen: Screen, aim: Aim) -> ScreenData:
        """What a recipe's candidates are measured on: what was attributed, and text that was not.

        Words of all behaviours that a recipe is for count together; those of behaviours that it is not to serve count
        as ordinary ones.

        Raises:
            ValueError: No words and no scorer, or no words where several behaviours count; prompts chosen by greedy
                responses, which the screen would score again, or fewer than two; not enough text; or the same words of
                behaviours that the recipe is to serve and is not to.
        """
        (price, unseen), data = self._price(module, screen), module.data
        samples = {name: data.reference_samples[name] for name in aim.behaviours}
        silent = [data.key_of(name) for name, one in samples.items() if not one.following]
        if silent and (len(samples) > 1 or aim.others):
            raise ValueError(
                f"`screen` of recipe `{aim.name}`, which several behaviours decide, needs words of each, got none of "
                f"`{silent[0]}`. Set it to WordsThatMatter, `PruningCallback.init_args.recipes` to [each] without "
                "`specific_to`, or `screen` to null."
            )
        if silent:
            _check_luck(module, aim.behaviours[0])
            only = samples[aim.behaviours[0]]
            if len(only) < 2:
                raise ValueError(
                    f"`screen` needs prompts to continue, at least two, got {len(only)} of `{silent[0]}`. Set its "
                    "`init_args.num_prompts` to 2 or more."
                )
            return ScreenData(
                ScoredResponses(module.evaluator, module.tokenizer, only, silent[0]), price=price, unseen=unseen
            )
        words = self._words(module, [*aim.behaviours, *aim.others, *aim.general])
        serving = [one for name in aim.behaviours for one in words.pop(name)]
        for name in aim.others:
            if num := num_in_both(serving, words[name]):
                raise ValueError(
                    f"`specific_to: [{aim.behaviours[0]}]` with a screen lowers words of "
                    f"`{data.key_of(aim.behaviours[0])}` that others must not lower, but {num} of them, after the same "
                    f"text, are also in `{data.key_of(name)}`. Set `init_args.among` of both, where the file has a "
                    "column of scores for each, or give each texts of its own."
                )
        return ScreenData(serving, [one for passages in words.values() for one in passages], price, unseen)

    def _words(self, module: SparC3Module, names: Sequence[str]) -> dict[str, list[Passage]]:
        """Words of some sets, by set."""
        data = module.data
        words = {name: word_passages(data.reference_samples[name]) for name in names}
        for name, passages in words.items():
            if len(passages) < 2:
                raise ValueError(
                    f"`screen` needs words to measure, at least two, got {len(passages)} of `{data.key_of(name)}`. Set "
                    "it to WordsThatMatter, OrdinaryWords or C4, and `model.target: next_token`."
                )
        return words

    def _price(self, module: SparC3Module, screen: Screen) -> tuple[list[Passage], list[Passage]]:
        """Text to tell prices by: of each candidate; and, of what was chosen by these, text that was not asked."""
        data = module.data
        if not data.price_rows:
            raise ValueError("`screen` needs text to tell a price by, got none. Set `data.price`.")
        num_tokens = math.ceil(screen.num_price_tokens / len(data.price_rows))  # as much of each
        price, unseen = list[Passage](), list[Passage]()
        for name, rows in data.price_rows.items():
            found = price_passages(name, rows, partial(encode, module.tokenizer), num_tokens, module.max_length)
            price += found[0]
            unseen += found[1]
        for passage in [*price, *unseen]:
            check_vocabulary(passage.ids.tolist(), module.vocab_size, "`data.price`")
        return price, unseen

    def _screen_all(self, module: SparC3Module, screen: Screen) -> None:
        """Screen every recipe's candidates; of several recipes one that nothing is left of is left out.

        Raises:
            ValueError: No recipe has anything left that is worth its price.
        """
        run = module.run
        for one, directory in run.by_recipe(module.log_dir):
            screened = self._screened(module, screen, one, directory)
            assert one.recipe is not None
            try:
                check_chosen(one.recipe, screened)
            except ValueError as error:
                if len(run.parts) < 2:
                    raise
                del run.parts[_name_of(one)]
                if module.trainer.is_global_zero:
                    warnings.warn(f"recipe `{_name_of(one)}` is left out: {error}", stacklevel=2)

    def _screened(self, module: SparC3Module, screen: Screen, one: Run, directory: Path) -> list[Screened]:
        """Screen the candidates of a recipe on all ranks, and choose; rank 0 writes the table."""
        selected, data = one.recipe, self._screen_data(module, screen, one.aim or module.run.aims[0])
        assert selected is not None
        key = {**data.key(), **model_setting(module), "version": __version__, "max_tokens": screen.max_tokens}
        if isinstance(selected, WeightRecipe):
            key["weights"] = selected.sha256  # which of a row's weights go with it
        proposed = selected.only(selected.candidates[: screen.num_candidates])
        kept = KeptFigures(Path(module.trials_dir or module.log_dir / TRIALS_DIR), key)
        with module.evaluator.precision(), kept:
            one.recipe, screened, joint = screened_recipe(
                module.lm, proposed, self.num_neurons, data, screen, kept, module.progress
            )
        from_rank_zero(partial(directory.mkdir, parents=True, exist_ok=True))
        from_rank_zero(partial(write_screen, directory, proposed, screened, one.recipe))
        one.predictions = from_rank_zero(partial(self._predicted, module, one, directory, proposed, screened, data))
        if module.trainer.is_global_zero:
            named = f"{_name_of(one)}, " if one.aim else ""
            print(named + describe_screen(screened, joint, self.num_neurons, data.unit))
        return screened

    def _predicted(
        self, module: SparC3Module, one: Run, directory: Path, proposed: AnyRecipe, screened: Sequence[Screened],
        data: ScreenData,
    ) -> Predictions:  # fmt: skip
        """Hold every method of the run against what removal did, and write the table; rank 0 has the scores."""
        run, scores = module.run, {module.run.main_key: proposed.candidate_scores}
        for key, found in run.scores.items():
            if key not in scores and (found.sets or found.ranking is not None):
                contrast = self._contrast_by(found, module, one.aim or run.aims[0])
                scores[key] = _scored_by(contrast, proposed)
        if isinstance(proposed, WeightRecipe):  # some methods score neurons alone
            scores = {key: values for key, values in scores.items() if not all(map(math.isnan, values))}
        num_best = self.num_neurons or max(1, len(one.recipe.candidates) if one.recipe is not None else 0)
        test = module.evaluator.paired_test
        predictions = predict_effects(screened, scores, run.main_key, num_best, test, data.unit)
        write_predictions(directory, predictions)
        return predictions

    def _aimed(self, aim: Aim, contrasts: Mapping[str, ScoreSet], sets: Mapping[str, ScoreSet]) -> ScoreSet:
        selected: Granularity = "weight" if self.num_neurons is None else "neuron"
        return aimed_contrast(aim, contrasts, sets, self.general_penalty, selected)

    def _contrast_by(self, found: MethodScores, module: SparC3Module, aim: Aim) -> ScoreSet:
        """What another method would have selected a recipe from."""
        if found.ranking is not None:
            return found.ranking
        options, named = (self.general_weight, self.general_penalty), module.data.differentials()
        contrasts = {name: found.contrast(named[name], name, *options) for name in aim.behaviours}
        return self._aimed(aim, contrasts, found.sets)


def _check_weights(module: SparC3Module) -> None:
    """Single weights need scores of their own."""
    if module.granularity != "weight":
        raise ValueError(
            f"`sparsity` needs a score of every weight, got granularity {module.granularity!r}. Set "
            "`model.granularity: weight` (and `model.modules: all` for all layers), or `num_neurons` in its place."
        )


def _check_luck(module: SparC3Module, behaviour: str) -> None:
    """Prompts with the highest scores by luck fall to the mean without it, whatever is removed."""
    is_by_response = getattr(module.data.behaviours[behaviour], "select_by", None) == "response"
    if is_by_response and module.evaluator.decoding.temperature == 0:
        raise ValueError(
            f"`screen` scores the responses to `{module.data.key_of(behaviour)}`, chosen by `select_by: response`, and "
            "needs responses that differ by luck, got temperature 0: those that chose would be those that are "
            "measured, and almost any change lowers them. Set `decoding.temperature` of the evaluator above 0, or "
            "`init_args.select_by` to prompt or continuation."
        )


def _scored_by(contrast: ScoreSet, proposed: AnyRecipe) -> list[float]:
    """What a method's scores say of the candidates; NaN where it has none."""
    if isinstance(proposed, WeightRecipe):
        return row_scores(contrast, proposed)
    return scores_of(contrast, proposed.neurons)


def _name_of(one: Run) -> str:
    """A recipe's name; of one behaviour it has none."""
    return "" if one.aim is None else one.aim.name
