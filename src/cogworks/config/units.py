"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from cogworks.errors import RequestError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) *([a-z]*)", flags=re.ASCII | re.IGNORECASE)


def parse_memory(amount: int | str) -> int:
    """Bytes of "8GB" (8e9), "7.5 GiB" (7.5 * 2**30), "512MB" or a plain number of bytes; K, M, G stand for KB, MB, GB.

    Raises:
        RequestError: anything else, or less than one byte.
    """
    match = None if isinstance(amount, bool) else _AMOUNT.fullmatch(str(amount).strip())
    unit = None if match is None else match[2].upper()
    factor = _UNITS.get(f"{unit}B" if unit in ("K", "M", "G", "T") else unit or "")
    if match is None or factor is None or float(match[1]) * factor < 1:
        raise RequestError(f"memory is an amount such as 8GB or 512MB, got {amount!r}")
    return int(float(match[1]) * factor)


def format_memory(amount: float) -> str:
    """Bytes for people, with a tenth: "7.5 GB", "12.0 MB"."""
    unit = next(name for name in ("TB", "GB", "MB", "KB", "B") if abs(amount) >= _UNITS[name] or name == "B")
    return f"{amount:.0f} B" if unit == "B" else f"{amount / _UNITS[unit]:.1f} {unit}"
