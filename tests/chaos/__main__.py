"""A random mix of faults over short jobs on three workers, judged at the end.

    python -m tests.chaos --seconds 120 --seed 1

The seed decides which faults come, when, and how long they last. What the machine makes of them is its own
affair: a violation may need several runs to be seen again. The exit status is 1 if there was one.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import verdict
from tests.chaos.faults import FAULTS
from tests.chaos.world import World, made

TICK_SECONDS = 0.1
BETWEEN_FAULTS = (0.3, 2.5)
OFTEN = ("a users wish", "a users wish", "commits unanswered", "worker frozen")  # so much besides


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the tally there")
    parser.add_argument("--logs", type=Path, help="keep the workers' logs there")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with made(Path(tempfile.gettempdir()) / f"mixkd-chaos-{os.getpid()}", rng) as world:
        break_things(world, options.seconds)
        verdict.until_all_ended(world)
        violations = list(verdict.judge(world))
        told = verdict.tally(world, options.seconds, options.seed, violations)
        if options.logs:
            keep_logs(world, options.logs)
    print(told, flush=True)
    if options.out:
        options.out.write_text(told)
    return 1 if violations else 0


def break_things(world: World, seconds: float) -> None:
    """A fault now and then, for so long; then everything is mended."""
    end = time.monotonic() + seconds
    names = [*sorted(FAULTS), *OFTEN]
    next_fault = time.monotonic() + 5  # the workers start
    while time.monotonic() < end:
        world.tick(work=True)
        if time.monotonic() >= next_fault:
            name = world.random.choice(names)
            if FAULTS[name](world):
                world.faults[name] += 1
            next_fault = time.monotonic() + world.random.uniform(*BETWEEN_FAULTS)
        time.sleep(TICK_SECONDS)
    world.mend_everything()


def keep_logs(world: World, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for log in world.cluster.folder.glob("worker-*.log"):
        (folder / log.name).write_bytes(log.read_bytes())
    for log in (world.cluster.folder / "data" / "logs").glob("*.log"):
        (folder / log.name).write_bytes(log.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
