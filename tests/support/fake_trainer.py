"""A trainer that does what a test tells it: run as a script in the place of `python -m mixkd`.

    fake_trainer.py SCRIPTS run SPEC --dir D --pipe FD --lease FD

The recipe's seed names the script, `SCRIPTS/SEED.json`: a list of steps. Without one it makes a student and
succeeds. It loads no torch; the step `train` is a training in small, see `tests.support.small_training`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PHASES = ("prepare", "teach", "distil", "evaluate", "export")
SUCCEED: list[list[Any]] = [*(["phase", name] for name in PHASES), ["student"], ["say", {"type": "done"}]]


class Scripts:
    """The test's end: scripts to write, and traces that trainers left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def command(self) -> list[str]:
        """What to start in the place of the trainer."""
        return [sys.executable, __file__, str(self.folder)]

    def write(self, seed: int, *steps: list[Any]) -> None:
        """What the trainer of jobs with this seed does."""
        (self.folder / f"{seed}.json").write_text(json.dumps(steps))

    def started(self, seed: int) -> list[int]:
        """The process ids of the trainers that ran for this seed, oldest first."""
        path = self.folder / f"started-{seed}"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def left(self, name: str) -> Path:
        """Where a step `["leave", name]` or `["environment", name]` leaves its trace."""
        return self.folder / name


def main() -> None:
    scripts, spec, folder, pipe = Path(sys.argv[1]), Path(sys.argv[3]), Path(sys.argv[5]), int(sys.argv[7])
    run = json.loads(spec.read_text())
    seed = run["recipe"]["seed"]
    with (scripts / f"started-{seed}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    script = scripts / f"{seed}.json"
    for name, *values in json.loads(script.read_text()) if script.exists() else SUCCEED:
        step(name, values, scripts=scripts, run=run, folder=folder, pipe=pipe)


def step(  # noqa: PLR0912 - one branch a step
    name: str, values: list[Any], *, scripts: Path, run: dict[str, Any], folder: Path, pipe: int
) -> None:
    match name:
        case "say":
            os.write(pipe, json.dumps(values[0]).encode() + b"\n")
        case "phase":
            os.write(pipe, json.dumps({"type": "phase", "phase": values[0], "steps": 1}).encode() + b"\n")
        case "babble":
            os.write(pipe, values[0].encode())
        case "print":
            print(values[0], flush=True)
        case "student":
            shutil.copytree(run["teacher"], folder / "student")
            (folder / "report.json").write_text(values[0] if values else '{"accuracy": 1.0}')
        case "leave":
            (scripts / values[0]).touch()
        case "environment":
            (scripts / values[0]).write_text(json.dumps(dict(os.environ)))
        case "wait for":
            while not (scripts / values[0]).exists():
                time.sleep(0.02)
        case "eat memory":
            eaten = []
            while True:
                eaten.append(b"\1" * (16 << 20))
        case "hang":
            time.sleep(3600)
        case "ignore SIGTERM":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "close the pipe":
            os.close(pipe)
        case "child":  # holds the pipe open after its parent's end
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], pass_fds=[pipe])
            (scripts / values[0]).write_text(str(child.pid))
        case "train":  # steps, seconds of each, steps between checkpoints
            sys.path.insert(0, str(Path(__file__).parents[2]))  # a script finds only what lies beside it
            from tests.support.small_training import train

            value = train(*values, scripts=scripts, folder=folder, pipe=pipe, lease=int(sys.argv[9]))
            shutil.copytree(run["teacher"], folder / "student")
            (folder / "report.json").write_text(json.dumps({"value": value}))
        case "once":  # what follows happens in the first attempt only
            if (scripts / values[0]).exists():
                for again in SUCCEED:
                    step(again[0], again[1:], scripts=scripts, run=run, folder=folder, pipe=pipe)
                sys.exit(0)
            (scripts / values[0]).touch()
        case "signal":
            os.kill(os.getpid(), values[0])
        case "exit":
            sys.exit(values[0])
        case _:
            raise ValueError(f"no such step: {name}")


if __name__ == "__main__":
    main()
