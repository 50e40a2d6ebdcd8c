"""Training: K trials of equal structure as one network. Needs torch, numpy and `models`, and of Tuner values alone.

Knows plain values and arrays; never a study, a sampler, a ledger or a tracking server.
"""

from __future__ import annotations

import os

# A matrix product's bits must not depend on where in memory a row of the stack happens to lie, nor on
# how many rows stand beside it (law 1). MKL promises that only in its reproducible mode, which it
# enters when it is first used; the mode costs nothing measurable at our sizes (docs/decisions/numerics.md).
os.environ.setdefault("MKL_CBWR", "AUTO")
