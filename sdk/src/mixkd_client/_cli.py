"""The `mixkd` command. `MIXKD_URL` and `MIXKD_API_KEY` say which service, as whom."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mixkd_client._client import Client
from mixkd_client._download import archive_format
from mixkd_client._errors import MixkdError
from mixkd_client._types import Answer, Job, Worker
from mixkd_client.progress import JobProgress, numbers


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exit status: 0 done, 1 refused or failed, 2 a wrong command line, 130 interrupted."""
    given = parser().parse_args(arguments)
    key = given.key or os.environ.get("MIXKD_API_KEY")
    if not key:
        sys.exit("mixkd: an API key is needed: set MIXKD_API_KEY, or give --key")
    try:
        with Client(given.url, key) as client:
            given.run(client, given)
    except (MixkdError, OSError) as error:
        sys.exit(f"mixkd: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def submit(client: Client, given: argparse.Namespace) -> None:
    """`mixkd jobs submit`."""
    recipe = None if given.recipe is None else _read_object(given.recipe)
    wanted = {"device": given.device, "gpu_type": given.gpu_type, "gpus": given.gpus}
    job = client.jobs.create(
        given.teacher,
        given.dataset,
        recipe=recipe,
        name=given.name,
        priority=given.priority,
        resources={name: value for name, value in wanted.items() if value is not None},
        deadline_seconds=given.deadline_seconds,
    )
    print(job.id)  # noqa: T201 - the command's output
    if given.watch:
        _watch(client, job.id)


def list_jobs(client: Client, given: argparse.Namespace) -> None:
    """`mixkd jobs list`."""
    table = Table("id", "name", "status", "phase", "progress", "created")
    for _, job in zip(range(given.limit), client.jobs.list(status=given.status), strict=False):
        doing = numbers(job.progress) if job.progress and not job.finished else ""
        table.add_row(job.id, escape(job.name), state(job), job.phase, doing, _minute(job.created_at))
    Console().print(table)


def state(job: Job) -> str:
    """`queued, number 3`, `running, to be paused`, `paused` …"""
    if job.queue_position is not None:
        return f"{job.status}, number {job.queue_position}"
    if not job.finished and job.cancel_requested_at is not None:
        return f"{job.status}, to be cancelled"
    return job.status if job.pause_requested_at is None else f"{job.status}, to be paused"


def show(client: Client, given: argparse.Namespace) -> None:
    """`mixkd jobs show`."""
    _print(client.jobs.get(given.job))


def watch(client: Client, given: argparse.Namespace) -> None:
    """`mixkd jobs watch`."""
    _watch(client, given.job)


def ask(client: Client, given: argparse.Namespace) -> None:
    """`mixkd jobs cancel | pause | resume | finish | retry`; prints where that leaves the job."""
    print(state(getattr(client.jobs, given.wish)(given.job)))  # noqa: T201 - the command's output


def set_priority(client: Client, given: argparse.Namespace) -> None:
    """`mixkd jobs priority`; prints where that leaves the job."""
    print(state(client.jobs.set_priority(given.job, given.priority)))  # noqa: T201 - the command's output


def download(client: Client, given: argparse.Namespace) -> None:
    """`mixkd jobs download`; prints where the student is."""
    if given.archive is not None:
        print(client.jobs.download_archive(given.job, given.archive))  # noqa: T201 - the command's output
    else:
        print(client.jobs.download_student(given.job, given.directory))  # noqa: T201 - the command's output


def upload_dataset(client: Client, given: argparse.Namespace) -> None:
    """`mixkd datasets upload`."""
    columns = {"text": given.text, "text_pair": given.text_pair, "label": given.label}
    dataset = client.datasets.upload(
        given.name,
        train=given.train,
        validation=given.validation,
        test=given.test,
        format=given.format,
        columns={role: column for role, column in columns.items() if column is not None},
        task=given.task,
        reading=None if given.reading is None else _read_object(given.reading),
    )
    _print(client.datasets.wait(dataset.id))


def register_model(client: Client, given: argparse.Namespace) -> None:
    """`mixkd models register`."""
    _print(client.models.wait(client.models.register(given.name, given.source).id))


def list_workers(client: Client, given: argparse.Namespace) -> None:  # noqa: ARG001 - as every command
    """`mixkd workers`."""
    table = Table("id", "host", "device", "GPUs busy", "state", "started", "seen")
    for worker in client.workers.list():
        device = f"{worker.gpus} x {worker.device}" if worker.gpus else worker.device
        busy = ", ".join(f"{gpu.busy:.0%}" for gpu in worker.gpu_use or [])
        times = (_minute(at) for at in (worker.started_at, worker.seen_at))
        table.add_row(worker.id, escape(worker.hostname), escape(device), busy, activity(worker), *times)
    Console().print(table)


def activity(worker: Worker) -> str:
    """`gone`, `idle`, the id of your job that it runs, or `busy` with another's."""
    if not worker.alive:
        return "gone"
    return worker.job_id or ("busy" if worker.busy else "idle")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="mixkd", description="Talk to a mixkd service.")
    url = os.environ.get("MIXKD_URL", "http://127.0.0.1:8000")
    root.add_argument("--url", default=url, help="the service (MIXKD_URL; now %(default)s)")
    root.add_argument(
        "--key", help="the API key (MIXKD_API_KEY; other users of this machine can read an option)"
    )
    nouns = root.add_subparsers(required=True, metavar="jobs|datasets|models|workers")

    jobs = nouns.add_parser("jobs", help="distillations").add_subparsers(required=True, metavar="command")
    new = jobs.add_parser("submit", help="submit one; prints its id")
    new.add_argument("--teacher", required=True, help="mdl_…")
    new.add_argument("--dataset", required=True, help="ds_…")
    new.add_argument(
        "--recipe", type=Path, help="a JSON file (docs/reference/recipe.md); default: all defaults"
    )
    new.add_argument("--name")
    new.add_argument("--priority", type=int, help="0 to 100")
    new.add_argument("--device", choices=["any", "cpu", "gpu"], help="what it runs on; default: any")
    new.add_argument("--gpu-type", help="a part of the GPU's name, such as h100; with --device gpu")
    new.add_argument("--gpus", type=int, help="how many, at least; with --device gpu")
    new.add_argument(
        "--deadline-seconds", type=int, help="it fails if it has not ended so long after its submission"
    )
    new.add_argument("--watch", action="store_true", help="follow it to its end")
    new.set_defaults(run=submit)
    many = jobs.add_parser("list", help="the newest ones")
    many.add_argument("--status")
    many.add_argument("--limit", type=int, default=20)
    many.set_defaults(run=list_jobs)
    for name, run, text in (
        ("show", show, "everything about one, as JSON"),
        ("watch", watch, "follow one to its end"),
        ("cancel", ask, "ask for its end"),
        ("pause", ask, "let it wait; a running one frees its worker"),
        ("resume", ask, "let a paused one go on"),
        ("finish", ask, "stop its training now and keep the best"),
        ("retry", ask, "try one again that failed or was cancelled"),
        ("priority", set_priority, "change the place of one that waits"),
    ):
        one = jobs.add_parser(name, help=text)
        one.add_argument("job", help="job_…")
        one.set_defaults(run=run, wish=name)
        if run is set_priority:
            one.add_argument("priority", type=int, help="0 to 100")
    files = jobs.add_parser("download", help="fetch the student, checked")
    files.add_argument("job", help="job_…")
    _folder_or_archive(files)
    files.set_defaults(run=download)

    datasets = nouns.add_parser("datasets", help="labelled texts").add_subparsers(
        required=True, metavar="command"
    )
    data = datasets.add_parser("upload", help="upload one and wait until it is ready")
    data.add_argument("name")
    data.add_argument("--train", type=Path, required=True)
    data.add_argument("--validation", type=Path)
    data.add_argument("--test", type=Path)
    data.add_argument("--format", choices=["jsonl", "csv", "tsv", "parquet"], help="default: the suffix")
    for role in ("text", "text-pair", "label"):
        data.add_argument(f"--{role}", metavar="COLUMN", help=f"the column that holds the {role}")
    data.add_argument("--task", choices=["single_label", "multi_label", "regression"])
    data.add_argument(
        "--reading", type=Path, metavar="FILE", help="JSON: what else the service should know to read them"
    )
    data.set_defaults(run=upload_dataset)

    models = nouns.add_parser("models", help="teachers").add_subparsers(required=True, metavar="command")
    model = models.add_parser("register", help="register one and wait until it is ready")
    model.add_argument("name")
    model.add_argument(
        "source", help="hf://org/name@revision, or path:/folder under one of the service's roots"
    )
    model.set_defaults(run=register_model)

    nouns.add_parser("workers", help="what there is to run jobs on").set_defaults(run=list_workers)
    return root


def _folder_or_archive(command: argparse.ArgumentParser) -> None:
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("directory", type=Path, nargs="?")
    where.add_argument("--archive", type=_archive, metavar="FILE", help="one file instead: .tar or .zip")


def _archive(text: str) -> Path:
    path = Path(text)
    try:
        archive_format(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def _minute(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M")


def _watch(client: Client, job_id: str) -> None:
    with JobProgress() as progress:
        client.jobs.wait(job_id, on_update=progress)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MixkdError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MixkdError(f"{path} holds no JSON object")
    return value


def _print(answer: Answer) -> None:
    print(answer.model_dump_json(indent=2))  # noqa: T201 - the command's output
