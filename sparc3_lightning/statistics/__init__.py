"""What paired numbers tell: tests, intervals, size of an effect, power, corrections. Over columns: `compare`."""

from sparc3_lightning.statistics.effects import Power, power, rank_biserial, standardised_effect, variance_components
from sparc3_lightning.statistics.exchange import Tested, exchange_tests
from sparc3_lightning.statistics.intervals import (
    Bootstrap,
    Interval,
    perplexity_bootstrap,
)
from sparc3_lightning.statistics.signs import share_improved, sign_flip_p_value, wilcoxon_p_value

__all__ = [
    "Bootstrap",
    "Interval",
    "Power",
    "Tested",
    "exchange_tests",
    "perplexity_bootstrap",
    "power",
    "rank_biserial",
    "share_improved",
    "sign_flip_p_value",
    "standardised_effect",
    "variance_components",
    "wilcoxon_p_value",
]
