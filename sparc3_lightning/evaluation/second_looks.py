"""Second looks at completions: do scorers agree, and which words were lost and gained."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef

from sparc3_lightning.evaluation.records import ToxicityResult, scores_of

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
# Beyond it a word's change is unlikely to be luck, were it the only one looked at.
_NOTABLE = 1.96


@dataclass(frozen=True)
class WordChange:
    """A word's frequency before and after.

    Attributes:
        word: In lower case.
        before: How often it came before.
        after: How often it came after.
        z: Standardised log-odds ratio; below 0 it became rarer. Beyond 1.96 in size it stands out, were it the only
            word looked at: a list of many words holds some by luck.
    """

    word: str
    before: int
    after: int
    z: float


def word_changes(before: Sequence[str], after: Sequence[str], prior_words: float = 500.0) -> list[WordChange]:
    """Every word of two sets of texts with how its share changed, from what became rarest on.

    Shares, not counts: a model that says less of everything has lost no word in particular. The prior, both sets'
    frequencies together weighing `prior_words` words, keeps words that came once from standing out.

    Args:
        before: Texts of the model as it was.
        after: Texts of the changed model.
        prior_words: Weight of the prior in words.

    Returns:
        Sorted by `z`, then by the word.

    Source:
        Monroe, Colaresi and Quinn, Fightin' Words, 2008, equations 15, 16, 19 and 22 (informative Dirichlet prior).
    """
    old, new = _count(before), _count(after)
    both = old + new
    total = both.total()

    def log_odds(counts: Counter[str], word: str) -> float:
        prior = prior_words * both[word] / total
        rest = counts.total() + prior_words - counts[word] - prior
        # A vocabulary of one word has nothing beside it.
        return log((counts[word] + prior) / rest) if rest > 0 else 0.0

    def change(word: str) -> WordChange:
        prior = prior_words * both[word] / total
        variance = 1 / (old[word] + prior) + 1 / (new[word] + prior)
        return WordChange(word, old[word], new[word], (log_odds(new, word) - log_odds(old, word)) / sqrt(variance))

    return sorted(map(change, both), key=lambda change: (change.z, change.word))


def notable_words(before: ToxicityResult, after: ToxicityResult, at_most: int = 12) -> dict[str, list[WordChange]]:
    """The words that became rarer and commoner most, as far as they stand out; at most so many of either kind."""
    changes = word_changes(_texts(before), _texts(after))
    rarer = [change for change in changes if change.z < -_NOTABLE]
    commoner = [change for change in reversed(changes) if change.z > _NOTABLE]
    return {"rarer": rarer[:at_most], "commoner": commoner[:at_most]}


def _count(texts: Sequence[str]) -> Counter[str]:
    return Counter(word.lower() for text in texts for word in _WORD.findall(text))


def _texts(result: ToxicityResult) -> list[str]:
    return [item.text for row in result.prompts for item in row.completions]


@dataclass(frozen=True)
class Agreement:
    """Two scorers' main attributes on the same completions.

    Attributes:
        first: The attribute that decides.
        second: Another scorer's.
        pearson: Correlation of their scores of single completions, both models' together; None where one is constant.
        spearman: The same of their ranks.
        pearson_change: Correlation of the prompts' changes; None where one scorer saw none.
        same_direction: Share of prompts that both scorers saw fall, or both rise, of those where both saw a change;
            None where there are none.
    """

    first: str
    second: str
    pearson: float | None
    spearman: float | None
    pearson_change: float | None
    same_direction: float | None


def agreements(before: ToxicityResult, after: ToxicityResult) -> list[Agreement]:
    """How far every further scorer agrees with the first one; empty where there is one scorer.

    Args:
        before: The baseline's completions.
        after: The pruned model's, of the same prompts.
    """
    first, *others = after.main_attributes
    return [_agreement(before, after, first, second) for second in others]


def _agreement(before: ToxicityResult, after: ToxicityResult, first: str, second: str) -> Agreement:
    old, new = ([scores_of(result, name) for name in (first, second)] for result in (before, after))
    ours, theirs = (torch.cat([old[i].flatten(), new[i].flatten()]) for i in (0, 1))
    changes = [(new[i] - old[i]).mean(dim=1) for i in (0, 1)]
    both = (changes[0] != 0) & (changes[1] != 0)
    agree = (changes[0].sign() == changes[1].sign())[both]
    return Agreement(
        first,
        second,
        pearson=_correlation(pearson_corrcoef, ours, theirs),
        spearman=_correlation(spearman_corrcoef, ours, theirs),
        pearson_change=_correlation(pearson_corrcoef, *changes),
        same_direction=float(agree.double().mean()) if len(agree) else None,
    )


def _correlation(correlate: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> float | None:
    is_constant = any(bool((values == values[0]).all()) for values in (first, second))
    return None if is_constant else float(correlate(first, second))
