"""A job's curve has no holes, whatever happened between a trainer's saying a number and its being written."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import ORMExecuteState, Session, sessionmaker

from core.config import Settings
from core.jobs.models import JobMetric
from core.storage import Storage, StoredFile
from tests.support.fake_trainer import SUCCEED, Scripts
from tests.support.jobs import Bench
from tests.support.running import Running
from tests.support.waiting import until

Start = Callable[..., Running]


def curve(bench: Bench, job_id: str) -> list[int]:
    with bench.sessions() as session:
        query = select(JobMetric.step).where(JobMetric.job_id == job_id).order_by(JobMetric.step)
        return list(session.scalars(query))


def test_a_checkpoint_does_not_count_before_the_numbers_up_to_it(
    bench: Bench, start: Start, scripts: Scripts
) -> None:
    """Whoever goes on from it does not say them again."""
    flaky = sessionmaker(bench.sessions.kw["bind"], expire_on_commit=False)
    metrics_away, refused = True, 0

    @event.listens_for(flaky, "do_orm_execute")
    def fail(state: ORMExecuteState) -> None:
        nonlocal refused
        if metrics_away and "job_metrics" in str(state.statement):
            refused += 1
            raise OperationalError("INSERT", {}, Exception("server closed the connection"))

    scripts.write(1, ["train", 4, 0.01, 2], ["leave", "trained"], ["wait for", "go on"], *SUCCEED[-1:])
    job_id = bench.submit(seed=1)
    running = start(sessions=flaky)
    until(scripts.left("trained").exists)
    until(lambda: refused > 3)
    assert bench.job(job_id).checkpoints == []
    metrics_away = False
    until(lambda: bench.job(job_id).checkpoints)
    assert curve(bench, job_id) == [1, 2, 3, 4]
    scripts.left("go on").touch()
    running.join()


def test_the_last_numbers_are_written_before_a_job_succeeds(
    bench: Bench, start: Start, scripts: Scripts, settings: Settings
) -> None:
    """Its commit waits for a database that is away; so do they."""
    flaky = sessionmaker(bench.sessions.kw["bind"], expire_on_commit=False)
    refused: list[bool] = []  # of each commit during the outage, whether the student was stored by then

    @event.listens_for(flaky, "before_commit")
    def fail(_: Session) -> None:
        if scripts.left("outage").exists():
            refused.append(scripts.left("stored").exists())
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    class Telling(Storage):
        def put_file(self, key: str, path: Path) -> StoredFile:
            file = super().put_file(key, path)
            if path.name == "manifest.json":
                scripts.left("stored").touch()
            return file

    said = {"type": "metric", "phase": "evaluate", "step": 1, "values": {"accuracy": 0.5}}
    scripts.write(
        1, *SUCCEED[:-1], ["leave", "outage"], ["say", said], ["say", said | {"step": 2}], SUCCEED[-1]
    )
    job_id = bench.submit(seed=1)
    running = start(sessions=flaky, storage=Telling(settings.storage_url))
    until(lambda: sum(refused) > 2)
    scripts.left("outage").unlink()
    running.join()
    assert bench.job(job_id).status == "succeeded"
    assert curve(bench, job_id) == [1, 2]
