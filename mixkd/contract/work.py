"""What a run keeps beside its checkpoints, and which of it a later attempt needs to go on.

checkpoints/  origins.json, metrics.jsonl, resolved.json
              TRAINING/step-00000120/…   the newest few
              TRAINING/finished/…        once that training is over
"""

from collections.abc import Iterator
from pathlib import Path

WORK = "checkpoints"
RESOLVED = "resolved.json"
FINISHED = "finished"
STEP = "step-"  # followed by the step, in as many digits as any has


def newest(training: Path) -> Path | None:
    """The checkpoint of one training that is the furthest; it may be gone in a moment, or damaged."""
    if (training / FINISHED).is_dir():
        return training / FINISHED
    return max(training.glob(f"{STEP}*"), default=None)


def to_go_on(work: Path) -> Iterator[Path]:
    """The files that a later attempt needs, without `resolved.json`: that names folders of this attempt.

    Files in checkpoints never change. Those beside them do, and come last: what they say is of that
    checkpoint, or later.
    """
    for training in sorted(path for path in work.iterdir() if path.is_dir()):
        folder = newest(training)
        if folder is not None:
            yield from sorted(folder.iterdir())
    for name in ("metrics.jsonl", "origins.json"):
        if (work / name).is_file():
            yield work / name
