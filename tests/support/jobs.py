"""Rows and files of a small service: an owner, a teacher, a data set, jobs."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.accounts.models import Owner
from core.datasets.models import Dataset
from core.db import SessionFactory
from core.ids import new_id
from core.jobs import events, wishes
from core.jobs.models import Job, JobAttempt, JobEvent
from core.models.models import Model
from core.storage import Storage
from core.workers import service as workers
from mixkd.contract.folder import inspect_folder
from mixkd.contract.spec import DistilSpec
from tests.support.tiny import QUESTIONS, write_bert


class Bench:
    """One owner with a ready teacher and a ready data set, whose files lie in storage."""

    def __init__(self, sessions: SessionFactory, storage: Storage) -> None:
        self.sessions = sessions
        self.storage = storage
        self.owner_id, self.teacher_id, self.dataset_id = new_id("own"), new_id("mdl"), new_id("ds")
        with tempfile.TemporaryDirectory() as folder, sessions.begin() as session:
            self._fill(session, Path(folder))

    def _fill(self, session: Session, folder: Path) -> None:
        session.add(Owner(id=self.owner_id, name=self.owner_id))
        session.flush()
        teacher = write_bert(folder / "teacher")
        session.add(
            Model(
                id=self.teacher_id,
                owner_id=self.owner_id,
                name="tiny",
                kind="teacher",
                source="upload:",
                status="ready",
                prefix=f"models/{self.teacher_id}",
                files={
                    path.name: asdict(self.storage.put_file(f"models/{self.teacher_id}/{path.name}", path))
                    for path in teacher.iterdir()
                },
                info=inspect_folder(teacher).model_dump(mode="json"),
            )
        )
        (folder / "train.jsonl").write_bytes(QUESTIONS * 4)
        stored = self.storage.put_file(f"datasets/{self.dataset_id}/train.jsonl", folder / "train.jsonl")
        session.add(
            Dataset(
                id=self.dataset_id,
                owner_id=self.owner_id,
                name="questions",
                status="ready",
                format="jsonl",
                columns={"text": "text", "text_pair": None, "label": "label"},
                files={"train": {"path": "train.jsonl"} | asdict(stored)},
                report={},
                fingerprint="0" * 64,
            )
        )

    def worker(self) -> str:
        """Register a worker; its id."""
        worker_id = new_id("wrk")
        with self.sessions.begin() as session:
            workers.register(session, worker_id, hostname="here", pid=1, device="cpu", gpus=0)
        return worker_id

    def submit(self, *, seed: int = 0, recipe: DistilSpec | None = None, **columns: Any) -> str:
        """Queue a job; its id.

        Args:
            seed: what the fake trainer is to do, see `tests.support.fake_trainer`.
            recipe: what the real one is to do.
        """
        job_id = new_id("job")
        with self.sessions.begin() as session:
            session.add(
                Job(
                    id=job_id,
                    owner_id=self.owner_id,
                    name="a job",
                    teacher_id=self.teacher_id,
                    dataset_id=self.dataset_id,
                    recipe=(recipe or DistilSpec(seed=seed)).model_dump(mode="json"),
                    **columns,
                )
            )
            session.flush()
            events.append(session, job_id, "queued")
        return job_id

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        with self.sessions() as session:
            return session.get_one(Job, job_id)

    def attempts(self, job_id: str) -> list[JobAttempt]:
        """Its attempts, oldest first."""
        with self.sessions() as session:
            query = select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.number)
            return list(session.scalars(query))

    def events(self, job_id: str) -> list[JobEvent]:
        """Its events, oldest first."""
        with self.sessions() as session:
            return list(
                session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq))
            )

    def event_types(self, job_id: str) -> list[str]:
        """What happened to it, phases left out."""
        return [event.type for event in self.events(job_id) if event.type != "phase"]

    def phases(self, job_id: str) -> list[str]:
        """The phases that it entered."""
        return [event.data["phase"] for event in self.events(job_id) if event.type == "phase"]

    def cancel(self, job_id: str) -> None:
        """Ask for a job's end, as the API does."""
        with self.sessions.begin() as session:
            wishes.cancel(session, self.owner_id, job_id)
