"""Postgres dies for good, and a standby takes its place."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from core.db import connect, session_factory
from tests.support.cluster import Cluster
from tests.support.lossy_postgres import LossyPostgres
from tests.support.standby import Standby
from tests.support.waiting import until


@pytest.fixture
def way(cluster: Cluster) -> Iterator[LossyPostgres]:
    """What a virtual address is in a real set-up; also the test's own way to the rows."""
    way = LossyPostgres(cluster.folder / "way", cluster.postgres.server.url)
    settings = cluster.settings.model_copy(update={"database_url": SecretStr(way.url)})
    engine = connect(settings)
    cluster.sessions = cluster.bench.sessions = session_factory(engine)
    yield way
    engine.dispose()


def test_jobs_go_on_with_a_standby_that_took_over(cluster: Cluster, way: LossyPostgres) -> None:
    """Nothing that was committed is lost, for a commit waits for the standby."""
    cluster.worker(MIXKD_DATABASE_URL=way.url, MIXKD_LEASE_SECONDS="20")
    cluster.worker("--control", MIXKD_DATABASE_URL=way.url)
    done, running = cluster.train(3), cluster.train(200)
    cluster.until_ended(done)
    standby = Standby(cluster, cluster.folder / "standby")
    try:
        reached = cluster.until_stored(running)
        queued = cluster.train(10)
        cluster.postgres.kill()
        standby.promote()
        way.lead_to(standby.url)
        assert cluster.bench.job(done).status == "succeeded"
        assert cluster.bench.job(queued).status == "queued"
        assert cluster.bench.job(running).checkpoints[0]["step"] >= reached
        until(lambda: cluster.step(running) > reached)
        cluster.until_ended()
        assert [one.outcome for one in cluster.bench.attempts(running)] == ["succeeded"]
        assert cluster.violations() == []
    finally:
        cluster.expected.clear()  # judged here, for the standby goes first
        standby.end()
