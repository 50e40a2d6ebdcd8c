"""What kind of processor this machine has, and what libraries must be told about it before they are loaded.

Knows the machine alone. Imports nothing: it runs before anything else of this package.
"""

from __future__ import annotations

import os

_ENOUGH = 4_096  # bytes of /proc/cpuinfo: all about the first processor


def wide_amd() -> bool:
    """Whether this is an AMD processor with vectors of 512 bits. Linux tells; elsewhere the answer is no."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - pathlib takes 5 ms
            first = file.read(_ENOUGH)
    except OSError:
        return False
    return "AuthenticAMD" in first and "avx512f" in first


def settings() -> dict[str, str]:
    """What the OpenBLAS that numpy carries must read to use such vectors; it does not know all of these by name."""
    return {"OPENBLAS_CORETYPE": "SkylakeX"} if wide_amd() else {}


def tell() -> None:
    """Put the settings into the environment, before numpy is imported. What a person has set stays."""
    for name, value in settings().items():
        os.environ.setdefault(name, value)
