"""Whoever stops in the middle of a transaction does not keep a job from everybody else."""

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from core.config import Settings
from core.db import connect, session_factory
from core.jobs.models import Job
from tests.support.jobs import Bench
from tests.support.waiting import until


def test_a_lock_ends_with_the_patience_for_who_holds_it(bench: Bench, settings: Settings) -> None:
    job_id = bench.submit()
    engine = connect(settings, longest_pause=0.5)

    def free() -> bool:
        with bench.sessions() as session:
            return bool(
                session.scalar(select(Job.id).where(Job.id == job_id).with_for_update(skip_locked=True))
            )

    with session_factory(engine)() as frozen:
        frozen.scalars(select(Job).where(Job.id == job_id).with_for_update()).one()
        assert not free()
        until(free, 20)
        with pytest.raises(OperationalError):  # as at any other outage: it is tried again
            frozen.scalars(select(Job)).all()
    engine.dispose()
