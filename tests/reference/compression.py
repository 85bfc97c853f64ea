"""Which weights go, written from the papers, one weight after the other; it imports nothing of the package.

SparC3, Sec. 3: within each row the weights of the lowest magnitude of the mean relevance go. N:M: of every M
consecutive weights of a row the N highest stay.
"""

from torch import Tensor

Mask = list[list[bool]]


def relevance_row_mask(relevances: list[Tensor], sparsity: float) -> Mask:
    """By the magnitude of the mean over the samples; ties go to the lower index.

    Shape: each (O, I), one a sample.
    """
    return row_mask(_magnitudes(relevances), sparsity)


def relevance_group_mask(relevances: list[Tensor], kept: int, group: int) -> Mask:
    """The same, N:M."""
    return group_mask(_magnitudes(relevances), kept, group)


def row_mask(scores: list[list[float]], sparsity: float) -> Mask:
    mask = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda j: (row[j], j))
        gone = set(order[: int(len(row) * sparsity)])
        mask.append([j in gone for j in range(len(row))])
    return mask


def group_mask(scores: list[list[float]], kept: int, group: int) -> Mask:
    mask = []
    for row in scores:
        gone: set[int] = set()
        for start in range(0, len(row), group):
            places = list(range(start, start + group))
            while len(places) > kept:
                worst = min(places, key=lambda j: (row[j], j))
                places.remove(worst)
                gone.add(worst)
        mask.append([j in gone for j in range(len(row))])
    return mask


def _magnitudes(relevances: list[Tensor]) -> list[list[float]]:
    rows, columns = relevances[0].shape
    return [
        [abs(sum(float(relevance[i, j]) for relevance in relevances) / len(relevances)) for j in range(columns)]
        for i in range(rows)
    ]
