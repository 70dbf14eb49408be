"""Jobs: submit, follow, cancel, and take what they made."""

import time
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from mixkd_client import _download, _events
from mixkd_client._errors import JobCancelled, JobFailed
from mixkd_client._transport import Transport
from mixkd_client._types import Attempt, Event, Job, Metric, Page, Progress, Student

_report: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class Jobs:
    """`client.jobs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        teacher_id: str,
        dataset_id: str,
        *,
        recipe: Mapping[str, Any] | None = None,
        name: str | None = None,
        priority: int | None = None,
        resources: Mapping[str, Any] | None = None,
        deadline_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a distillation; what the recipe leaves out is a default (docs/reference/recipe.md).

        Args:
            resources: what a worker must have: `device` (any, cpu, gpu), `gpu_type`, `gpus`.
            deadline_seconds: the job fails if it has not ended so long after its submission.

        Raises:
            InvalidInput: the recipe does not fit the teacher or the data; nothing was started.
        """
        body: dict[str, Any] = {"teacher_id": teacher_id, "dataset_id": dataset_id}
        optional = {
            "name": name,
            "recipe": recipe and dict(recipe),
            "priority": priority,
            "resources": resources and dict(resources),
            "deadline_seconds": deadline_seconds,
        }
        body |= {key: value for key, value in optional.items() if value is not None}
        answer = self._transport.create("/v1/jobs", json=body, idempotency_key=idempotency_key)
        return Job.model_validate_json(answer)

    def get(self, job_id: str) -> Job:
        """Read one."""
        return self._transport.get(f"/v1/jobs/{job_id}", Job.model_validate_json)

    def list(self, *, status: str | None = None) -> Iterator[Job]:
        """All of them, newest first; pages are fetched as they are needed."""
        return self._transport.pages("/v1/jobs", Page[Job], status=status)

    def cancel(self, job_id: str) -> Job:
        """Ask for its end. A running job ends within seconds; `wait` sees it."""
        return self._ask(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Let it wait until `resume`. A running one first writes a checkpoint, and frees its worker.

        Raises:
            Conflict: it has ended, or is about to be cancelled.
        """
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Let a paused one go on from its last checkpoint, when its turn comes.

        Raises:
            Conflict: it has ended, or is about to be cancelled.
        """
        return self._ask(job_id, "resume")

    def finish(self, job_id: str) -> Job:
        """Let the training under way stop at its next step, and count with its best weights.

        Raises:
            Conflict: it is not running, or is about to be cancelled.
        """
        return self._ask(job_id, "finish")

    def retry(self, job_id: str) -> Job:
        """Queue one again that failed or was cancelled; it goes on from its last checkpoint, with as
        much time to its deadline again.

        Raises:
            Conflict: it has succeeded, or is not cancelled yet.
        """
        return self._ask(job_id, "retry")

    def set_priority(self, job_id: str, priority: int) -> Job:
        """Change the place of one that waits, from 0 to 100.

        Raises:
            Conflict: it does not wait any more.
        """
        answer = self._transport.request("PATCH", f"/v1/jobs/{job_id}", json={"priority": priority})
        return Job.model_validate_json(answer.content)

    def _ask(self, job_id: str, what: str) -> Job:
        answer = self._transport.request("POST", f"/v1/jobs/{job_id}/{what}")
        return Job.model_validate_json(answer.content)

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """What has happened so far, oldest first."""
        path = f"/v1/jobs/{job_id}/events"
        while page := self._transport.get(path, Page[Event].model_validate_json, after=after).items:
            yield from page
            after = page[-1].seq

    def stream(
        self, job_id: str, *, after: int = 0, patience: float = 120, timeout: float | None = None
    ) -> Iterator[Event | Progress]:
        """What happens, as it happens, until the job's end: each event once and in order.

        `Progress` items are snapshots and come in between. A broken connection is opened again by itself.

        Args:
            after: the number of the last event that is known already.
            patience: how many seconds the service may stay away.
            timeout: seconds after which to stop; a silent stream notices up to 5 s late.

        Raises:
            ConnectionFailed: the service stayed away too long.
            TimedOut: `timeout` seconds have passed.
        """
        path = f"/v1/jobs/{job_id}/events/stream"
        silence = None if timeout is None else min(timeout, 5)
        return _events.follow(
            lambda headers: self._transport.stream(path, headers, silence=silence),
            after=after,
            patience=patience,
            deadline=None if timeout is None else time.monotonic() + timeout,
            pause=self._transport.pause,
        )

    def wait(
        self,
        job_id: str,
        *,
        on_update: Callable[[Event | Progress], None] | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Follow a job to its end. One that is paused is waited for until somebody resumes it: give a
        `timeout` if nobody may.

        Args:
            on_update: called with every event and progress snapshot; see `mixkd_client.progress`.
            timeout: seconds; the job goes on when they are over.

        Raises:
            JobFailed: `error.job.failure` has the cause, the detail and a remedy.
            JobCancelled: it was cancelled.
            TimedOut: `timeout` seconds have passed.
        """
        for update in self.stream(job_id, timeout=timeout):
            if on_update is not None:
                on_update(update)
        job = self.get(job_id)
        if job.status == "failed":
            raise JobFailed(job)
        if job.status == "cancelled":
            raise JobCancelled(job)
        return job

    def metrics(self, job_id: str, *, phase: str | None = None) -> Iterator[Metric]:
        """Numbers logged at steps, in the order of the steps."""
        return self._transport.pages(f"/v1/jobs/{job_id}/metrics", Page[Metric], phase=phase)

    def attempts(self, job_id: str) -> Iterator[Attempt]:
        """The runs of the job by workers."""
        return self._transport.pages(f"/v1/jobs/{job_id}/attempts", Page[Attempt])

    def report(self, job_id: str) -> dict[str, Any]:
        """The report card of a job that succeeded (docs/reference/report.md)."""
        return self._transport.get(f"/v1/jobs/{job_id}/report", _report.validate_json)

    def student(self, job_id: str) -> Student:
        """The student's files with their sizes and SHA-256s."""
        return self._transport.get(f"/v1/jobs/{job_id}/student", Student.model_validate_json)

    def download_student(self, job_id: str, directory: str | PathLike[str]) -> Path:
        """Put the student into `directory`: a folder that `transformers` loads as it is.

        The folder appears when every file is there and its SHA-256 is right. An interrupted download goes
        on where it was when this is called again.

        Raises:
            FileExistsError: the directory holds something else.
            CorruptDownload: the bytes are not those that the service promised.
        """
        base = f"/v1/jobs/{job_id}/student/files"
        _download.download(
            self.student(job_id).files,
            Path(directory),
            lambda path, headers: self._transport.stream(f"{base}/{quote(path)}", headers),
            retries=self._transport.retries,
            pause=self._transport.pause,
        )
        return Path(directory)

    def download_archive(
        self,
        job_id: str,
        path: str | PathLike[str],
        *,
        format: _download.ArchiveFormat | None = None,  # noqa: A002 - the API's own word
    ) -> Path:
        """Put the student into one file, with all in the folder `JOB-student`. Nothing is compressed.

        The file appears when all of it is there. Unlike `download_student`, an interrupted download begins
        anew.

        Args:
            format: `tar` or `zip`; by default the path's suffix.

        Raises:
            ValueError: the path's suffix is neither, and no format is given.
            FileExistsError: the path exists.
            ConnectionFailed: it kept being cut short; also where a stored file is damaged.
        """
        target = Path(path)
        url = f"/v1/jobs/{job_id}/student.{format or _download.archive_format(target)}"
        _download.download_archive(
            target,
            lambda headers: self._transport.stream(url, headers),
            retries=self._transport.retries,
            pause=self._transport.pause,
        )
        return target
