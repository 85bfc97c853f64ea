"""Pruning: combine the scores, take the differential, select the neurons, save the recipe and the pruned model."""

from functools import partial
from pathlib import Path

from lightning.pytorch import Trainer

from callbacks.base import RunCallback
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.models.families import get_family
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.save import save_pruned_model
from sparc3_lightning.pruning.select import SCOPES, Scope, check_num_neurons, select_neurons
from sparc3_lightning.scoring.combine import Penalty, check_general, differential
from sparc3_lightning.scoring.saving import save_together, share_summaries
from sparc3_lightning.scoring.score_set import ScoreSet


class PruningCallback(RunCallback):
    """Selects after attribution; writes `pruned_neurons.json`, `scores/differential/` and, if asked, `pruned_model/`.

    Args:
        num_neurons: How many neurons go.
        scope: Where scores compete: "global" or "layer".
        general_weight: Weight g >= 1 of general relevance; 1 is the paper.
        general_penalty: "raw" (the paper) or "abs".
        save_model: Also save the pruned model as a Hugging Face directory, with tokenizer and model card.
    """

    def __init__(
        self,
        num_neurons: int = 100,
        scope: Scope = "global",
        general_weight: float = 1.0,
        general_penalty: Penalty = "raw",
        save_model: bool = False,
    ) -> None:
        if scope not in SCOPES:
            raise ValueError(f"`scope` must be one of {SCOPES}, got {scope!r}. Set `PruningCallback.init_args.scope`.")
        check_general(general_weight, general_penalty)
        self.num_neurons, self.scope = num_neurons, scope
        self.general_weight, self.general_penalty = general_weight, general_penalty
        self.save_model = save_model

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse, before hours of attribution, what could not be selected after them."""
        config, run, data = module.lm.config, module.run, module.data
        run.general, run.behaviour = data.differential_names()
        if trainer.is_global_zero:
            data.warn_of_shared_samples([*run.general, run.behaviour])
        check_num_neurons(self.num_neurons, get_family(config.model_type).total_neurons(config))

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Take the differential, select on rank 0, tell every rank, save."""
        log_dir, run = module.log_dir, module.run
        with run.timed("selection"):
            general, behaviour = [run.score_sets[name] for name in run.general], run.score_sets[str(run.behaviour)]
            contrast = differential(general, behaviour, self.general_weight, self.general_penalty)
            run.differential = save_together(contrast, log_dir / "scores" / "differential", module.device)
            # Each rank has read its share of every set: what all of them know makes the selection and its checks.
            share_summaries([*run.score_sets.values(), run.differential])
            run.recipe = from_rank_zero(partial(self._select, run.differential, log_dir))
        if self.save_model:
            with run.timed("saving the pruned model"):
                save_pruned_model(
                    module.lm, module.tokenizer, run.recipe, log_dir / "pruned_model", check_base=False,
                    dtype=module.weights_dtype,
                )  # fmt: skip

    def _select(self, contrast: ScoreSet, log_dir: Path) -> Recipe:
        recipe = select_neurons(contrast, self.num_neurons, self.scope)
        recipe.save(log_dir)
        return recipe
