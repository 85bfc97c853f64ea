"""The token-id hash and the fingerprints."""

import hashlib

import torch

from sparc3_lightning.data import Prompt, ReferenceSamples, token_hash


def test_hash_is_that_of_lengths_and_ids_in_order() -> None:
    by_hand = hashlib.sha256(b"".join(n.to_bytes(8, "little") for n in (2, 7, 300, 1, 5))).hexdigest()
    assert token_hash([torch.tensor([7, 300]), torch.tensor([5])]) == by_hand


def test_hash_tells_order_boundaries_and_values_apart_but_not_the_dtype() -> None:
    sets = [[[1, 2], [3]], [[1], [2, 3]], [[3], [1, 2]], [[1, 2, 3]], [[1, 2], [4]], [[1, 2], [3], []]]
    hashes = {token_hash([torch.tensor(ids, dtype=torch.int64) for ids in samples]) for samples in sets}
    assert len(hashes) == len(sets)
    assert token_hash([torch.tensor([1, 2])]) == token_hash([torch.tensor([1, 2], dtype=torch.int32)])


def test_samples_carry_their_hash() -> None:
    samples = ReferenceSamples([torch.tensor([1, 2])], {}, ["a"])
    assert samples.token_hash == token_hash(samples.ids)
    assert len(samples) == 1


def test_targets_are_part_of_the_hash() -> None:
    """Scores of other words are other scores (the prefixes may be the same)."""
    ids = [torch.tensor([1, 2]), torch.tensor([3])]
    hashes = [token_hash(ids), token_hash(ids, [4, 5]), token_hash(ids, [4, 6]), token_hash(ids, [4, 5], [6, 7]),
              token_hash(ids, None, [4, 5])]  # fmt: skip
    assert len(set(hashes)) == len(hashes)
    following = [torch.tensor([4, 9]), torch.tensor([5])]
    samples = ReferenceSamples(ids, {}, ["a", "b"], following=following)
    assert samples.token_hash == token_hash(ids, [4, 5])


def test_fingerprint_follows_the_text_alone() -> None:
    assert Prompt("a", " You are").fingerprint == Prompt("b", "You are\n").fingerprint
    assert Prompt("a", "You are").fingerprint != Prompt("a", "You were").fingerprint
