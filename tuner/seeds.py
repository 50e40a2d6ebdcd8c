"""Seeds: everything random is drawn from a number that is derived from what it is for."""

from __future__ import annotations

import hashlib


def derive(*parts: object) -> int:
    """A 31-bit integer that depends on every part and their order, the same on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little") >> 1
