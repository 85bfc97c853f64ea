"""Compression: weights removed row by row, by any method's scores, until the end of a `with` block."""

from sparc3_lightning.compression.apply import AppliedMasks, apply_masks
from sparc3_lightning.compression.masks import Pattern, lowest_per_group, mask_of
from sparc3_lightning.scores.baselines.formulas import lowest_per_row

__all__ = ["AppliedMasks", "Pattern", "apply_masks", "lowest_per_group", "lowest_per_row", "mask_of"]
