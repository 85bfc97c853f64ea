"""What jsonargparse says about a wrong config, without the alternatives that nobody meant."""

_NOISE = (
    "Does not validate against",
    "Subtypes: [",
    "Errors:",
    "Given value",
    "Expected a <class",
    "Expected a path but",
)


def short_message(message: str) -> str:
    """Keep the lines that say what is wrong and where.

    An option of type `X | None` that holds a mistake is reported as no X, and why, and also as no None, with all of its
    value. Only the why helps.

    Args:
        message: As jsonargparse gives it.
    """
    kept: list[str] = []
    for line in message.splitlines():
        said = line.strip().removeprefix("- ")
        if said and not said.startswith(_NOISE) and line not in kept:
            kept.append(line)
    only_where = all(line.strip().startswith("Parser key") for line in kept)
    return message if only_where else "\n".join(kept).strip().removeprefix("- ")
