"""One seed decides everything: each use of chance has a stream of its own, named by a path.

Nothing is drawn from a generator that lives on between steps, so that the numbers of step n do not depend
on how the steps before it went.
"""

import zlib

import numpy as np
import torch


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """The generator of one use of chance, for example `generator(seed, "distil", "pairs", step)`."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return np.random.default_rng([seed, *numbers])


def seed_torch(seed: int, *path: str | int) -> None:
    """Seed what only torch draws: dropout and new heads."""
    torch.manual_seed(int(generator(seed, *path).integers(2**63)))
