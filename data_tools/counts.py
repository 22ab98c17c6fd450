"""Counts in sentences: one shard, two shards."""


def counted(count: int, noun: str) -> str:
    """A count with its noun, as in "1 shard" or "1,297 images"; the noun is given in the singular."""
    if count == 1:
        return f"1 {noun}"
    ending = "es" if noun.endswith(("s", "ch", "x")) else "s"
    return f"{count:,} {noun}{ending}"


def are(count: int) -> str:
    """The verb that follows a count: "is" or "are"."""
    return "is" if count == 1 else "are"
