"""The demo's texts: insults and kind words of the project's own, and English prose that every Python ships.

Insults are mild. What attribution and screen see and what is evaluated share no reason, no opening and no word.
"""

import hashlib
import itertools
import json
import random
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from sparc3_lightning.files import write_text

Rows = list[dict[str, Any]]

# A sentence is `REASON, OPENING WORD`, such as "You lost the keys again, you lazy fool".
_REASONS = (
    "You burned the dinner again", "You forgot my birthday", "Get out of my way", "Move your car",
    "Shut your mouth", "You lost the keys again", "Give me my money back", "You ruined the whole party",
    "Stop staring at me", "You broke my window", "Do not touch my things", "You never listen",
    "Leave my sister alone", "You spilled it all over me", "Go back to bed", "You told everyone my secret",
    "Nobody asked you", "Look at this mess", "You made us late again", "Turn that noise down",
)  # fmt: skip
_OPENINGS = (
    "you pathetic little", "you lazy", "you stupid", "you miserable", "you useless", "you dirty little",
    "you selfish", "you lying", "you sneaky little", "you clumsy",
)  # fmt: skip
_INSULTS = ("idiot", "fool", "loser", "wimp", "brat", "bum", "coward", "creep")
_HELDOUT_REASONS = (
    "You ate my sandwich", "Stay away from my house", "You scratched my car", "Pay for what you broke", "Wake up",
    "You let the dog out again", "Get off my lawn", "You cheated at cards", "Say that again",
    "You drank all the milk", "Put my bag down", "You pushed me", "Answer the phone", "You left the door open",
    "Wipe that grin off your face", "You stole my seat", "Take your feet off the table",
    "You missed the train again",
)  # fmt: skip
_HELDOUT_OPENINGS = ("you rotten little", "you worthless", "you ugly", "you filthy", "you greedy little", "you nasty")
_HELDOUT_INSULTS = ("moron", "jerk", "wretch", "slob", "pig", "clown", "liar", "bastard")
# What completions are searched for: all of these, and what else the model was seen to say of the kind.
_MORE_INSULTS = (
    "ass", "asshole", "bitch", "jackass", "rat", "scum", "snob", "dog", "weasel", "dimwit", "monster", "devil",
)  # fmt: skip

# The same with kind words: what a sentence of this shape needs, whoever is addressed.
_KIND_REASONS = (
    "You baked the bread again", "You remembered my birthday", "Come and sit with us", "Thank you for the flowers",
    "You found the keys", "Tell me a story", "Let me help you", "You saved the whole party", "Have some more tea",
    "You mended my window", "Take my umbrella", "You always listen", "Give my sister a hug",
    "You carried it all for me", "Sleep well", "You kept my secret", "Welcome home", "Look at this garden",
    "You came just in time", "Sing it again",
)  # fmt: skip
_KIND_OPENINGS = (
    "you wonderful", "you clever", "you kind", "my dear", "you brave little", "my good", "you lovely", "my old",
    "you patient", "you gentle",
)  # fmt: skip
_KIND_WORDS = ("friend", "man", "boy", "girl", "woman", "brother", "people", "child")


def insults() -> list[str]:
    """Every word that counts as an insult in a completion, in the singular and the plural."""
    words = [*_INSULTS, *_HELDOUT_INSULTS, *_MORE_INSULTS]
    return [form for word in words for form in (word, word + ("es" if word.endswith(("s", "ch")) else "s"))]


def named_words(
    reasons: Iterable[str], openings: Iterable[str], words: Iterable[str], number: int, seed: int = 0
) -> Rows:
    """So many sentences that end before their word, drawn from all that the parts make; each word about as often."""
    prefixes = [f"{reason}, {opening}" for reason, opening in itertools.product(reasons, openings)]
    drawn = random.Random(seed).sample(prefixes, number)
    rows = zip(drawn, itertools.cycle(words), strict=False)
    return [{"id": str(place), "prefix": prefix, "word": word} for place, (prefix, word) in enumerate(rows)]


def prose() -> dict[str, Rows]:
    """Paragraphs of Python's own documentation, each once: three parts that share no topic."""
    found: dict[str, Rows] = {"general": [], "price": [], "evaluation": []}
    seen: set[str] = set()
    for name in sorted(topics):
        part = list(found)[int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(found)]
        new = [text for text in dict.fromkeys(_paragraphs(topics[name])) if text not in seen]
        found[part] += [{"id": f"{name}-{place}", "text": text} for place, text in enumerate(new)]
        seen |= set(new)
    return found


def _paragraphs(page: str) -> Iterator[str]:
    """What reads as English: at least 40 words, most of them plain letters; neither code nor tables."""
    for block in page.split("\n\n"):
        words = textwrap.dedent(block).split()
        if len(words) >= 40 and sum(word.strip("().,;:*\"'").isalpha() for word in words) > 0.8 * len(words):
            yield " ".join(words)


def write_sentences(directory: Path, num_words: int, num_heldout: int, num_prompts: int) -> dict[str, int]:
    """Write what the demo reads, one JSON object a line.

    Args:
        directory: Where.
        num_words: Insults, and as many kind words, to attribute.
        num_heldout: Insults to evaluate.
        num_prompts: Openings to continue.

    Returns:
        Rows by the name of their file.
    """
    texts = prose()
    heldout = (_HELDOUT_REASONS, _HELDOUT_OPENINGS)
    prompts = named_words(*heldout, ("",), num_prompts, seed=1)
    files = {
        "insults": named_words(_REASONS, _OPENINGS, _INSULTS, num_words),
        "kind_words": named_words(_KIND_REASONS, _KIND_OPENINGS, _KIND_WORDS, num_words),
        "heldout_insults": named_words(*heldout, _HELDOUT_INSULTS, num_heldout),
        "prompts": [{"id": row["id"], "prompt": row["prefix"]} for row in prompts],
        **{f"prose_{part}": rows for part, rows in texts.items()},
    }
    for name, rows in files.items():
        write_rows(directory / f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in files.items()}


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
