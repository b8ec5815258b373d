"""Numbers for people, in one system everywhere: decimal units, as limits of memory and of bandwidth are given."""

from __future__ import annotations

import re

from edgeqkv.errors import InputError

__all__ = ["amount", "byte_count", "duration"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def amount(count: float) -> str:
    """Bytes, in decimal units and three digits.

    >>> amount(617), amount(52_900), amount(39_200_000), amount(373_400_000), amount(1_182_000_000)
    ('617 B', '52.9 kB', '39.2 MB', '373 MB', '1.18 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size * 0.9995:  # below, 999.7 kB would be shown as 1000 kB
            number = count / size
            return f"{number:.2f} GB" if unit == "GB" else f"{number:.{1 if number < 99.95 else 0}f} {unit}"
    return f"{count:.0f} B"


def byte_count(text: str, name: str) -> int:
    """A number of bytes as people write it, for the option ``name``.

    Raises:
        InputError: it is none, or less than one.

    >>> byte_count("8MiB", "--memory"), byte_count("1.5 GB", "--memory"), byte_count("4096", "--memory")
    (8388608, 1500000000, 4096)
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMG]?I?B|)", text.strip().upper())
    count = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if count < 1:
        raise InputError(f"{name} '{text[:40]}' is no size; write it as 8MiB, 500MB or 2GB")
    return count


def duration(seconds: float) -> str:
    """A time that passed or will.

    >>> duration(0.0123), duration(2.34), duration(59.7), duration(754), duration(7512)
    ('12.3 ms', '2.3 s', '60 s', '12 min 34 s', '2 h 5 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
