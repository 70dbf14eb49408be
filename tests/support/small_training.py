"""A training in small: steps that take their time, checkpoints, a lease, signals; no model.

What comes out is a chain of digests, one link a step: it is right only if every step was made once and in
order, however often the training was interrupted. Each step leaves a line in `SCRIPTS/history.jsonl`, which
`tests.support.history` judges.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from mixkd.contract.signals import FINISH
from mixkd.lease import Lease

HISTORY = "history.jsonl"


def value_after(steps: int) -> str:
    """What an undisturbed training of so many steps ends with."""
    value = ""
    for step in range(1, steps + 1):
        value = _link(value, step)
    return value


def train(
    steps: int, seconds: float, every: int, *, scripts: Path, folder: Path, pipe: int, lease: int
) -> str:
    """Train, or go on from the newest checkpoint in `folder`; what the chain ends with."""
    work = folder / "checkpoints"
    wishes: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: wishes.append(number))
    finish = {signal.SIGUSR1, FINISH["distil"]}  # the release before sends the first
    for number in finish:
        signal.signal(number, lambda number, _: wishes.append(number))
    held = Lease(lease)
    step, value = _newest(work)
    work.mkdir(exist_ok=True)
    (work / "origins.json").write_text("{}")
    _say(pipe, type="phase", phase="distil", steps=steps)
    while step < steps and not finish.intersection(wishes):
        held.wait(lambda: None)
        began = _now()
        time.sleep(seconds)
        step, value = step + 1, _link(value, step + 1)
        _note(scripts, folder, step, began)
        _say(pipe, type="progress", phase="distil", step=step, steps=steps)
        _say(pipe, type="metric", phase="distil", step=step, values={"step": step})
        if signal.SIGTERM in wishes or step % every == 0:
            if _write(work, step, value):
                _say(pipe, type="checkpoint", phase="distil", step=step)
            else:
                _say(pipe, type="note", detail="no checkpoint could be written")
            if signal.SIGTERM in wishes:
                sys.exit(143)
    return value


def _link(value: str, step: int) -> str:
    return hashlib.sha256(f"{value} {step}".encode()).hexdigest()


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _say(pipe: int, **message: object) -> None:
    os.write(pipe, json.dumps(message).encode() + b"\n")


def _note(scripts: Path, folder: Path, step: int, began: float) -> None:
    """One line a step. The attempt's folder is `JOB-FENCE/run`."""
    job, _, attempt = folder.parent.name.rpartition("-")
    line = {
        "job": job,
        "attempt": int(attempt),
        "pid": os.getpid(),
        "step": step,
        "began": began,
        "ended": _now(),
    }
    with (scripts / HISTORY).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _newest(work: Path) -> tuple[int, str]:
    folders = sorted(work.glob("distil/step-*"))
    if not folders:
        return 0, ""
    state = json.loads((folders[-1] / "state.json").read_text())
    return state["step"], state["value"]


def _write(work: Path, step: int, value: str) -> bool:
    """Write a checkpoint that is there whole or not at all; whether there was room for it."""
    scratch, target = work / f".scratch-{step}", work / "distil" / f"step-{step:08}"
    try:
        scratch.mkdir(exist_ok=True)
        (scratch / "state.json").write_text(json.dumps({"step": step, "value": value}))
        (scratch / "weights").write_bytes(value.encode() * 100)
        target.parent.mkdir(exist_ok=True)
        scratch.rename(target)
    except OSError:
        return False
    for older in sorted(target.parent.glob("step-*"))[:-2]:
        for path in older.iterdir():
            path.unlink()
        older.rmdir()
    return True
