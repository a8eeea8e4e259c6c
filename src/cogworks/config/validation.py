"""What pydantic found wrong with values a person wrote, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from pydantic import ValidationError


def explain(error: ValidationError, known: Iterable[str], tagged: Collection[str] = ()) -> str:
    """The first thing that is wrong, with the place and, for an unknown key, the nearest of the `known` ones.

    Args:
        tagged: keys that have several kinds: after them pydantic names the kind, which nobody wrote.
    """
    # An unknown key comes first: it may be why another one is missing.
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    parts = [str(part) for part in first["loc"]]
    place = ".".join(part for before, part in zip(["", *parts], parts, strict=False) if before not in tagged)
    if first["type"] == "extra_forbidden":
        names = list(known)
        nearest = difflib.get_close_matches(str(first["loc"][-1]), names, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(names)}"
        return f"unknown key {place!r}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    given = repr(first["input"])
    return f"{place}: {message[0].lower()}{message[1:]}, got {given if len(given) < 80 else given[:77] + '...'}"
