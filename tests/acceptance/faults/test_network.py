"""A machine that loses its network, and one whose connections lead nowhere."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.queue import Queue
from tests.support.cluster import Cluster
from tests.support.lossy_postgres import LossyPostgres
from tests.support.waiting import alive, until


@dataclass
class Elsewhere:
    """A machine of its own as far as its network goes: one cable, from `here` to it."""

    name: str
    here: str

    @property
    def within(self) -> tuple[str, ...]:
        return "ip", "netns", "exec", self.name

    def connected(self, *, yes: bool) -> None:
        """Without an address here, what it sends arrives and is dropped: no error tells it."""
        ip("addr", "add" if yes else "del", f"{self.here}/24", "dev", f"{self.name}h")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    name, subnet = f"mx{os.getpid()}", f"10.213.{os.getpid() % 250}"
    try:
        ip("netns", "add", name)
        ip("link", "add", f"{name}h", "type", "veth", "peer", "name", f"{name}t", "netns", name)
    except (OSError, subprocess.CalledProcessError):
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        pytest.skip("this machine lets nobody lay a cable")
    ip("link", "set", f"{name}h", "up")
    ip("-n", name, "addr", "add", f"{subnet}.2/24", "dev", f"{name}t")
    ip("-n", name, "link", "set", f"{name}t", "up")
    mac = Path(f"/sys/class/net/{name}h/address").read_text().strip()
    ip("-n", name, "neigh", "add", f"{subnet}.1", "lladdr", mac, "dev", f"{name}t", "nud", "permanent")
    there = Elsewhere(name, f"{subnet}.1")
    there.connected(yes=True)
    yield there
    ip("netns", "del", name)


@pytest.mark.long
def test_a_machine_loses_its_way_to_the_database_without_a_word(
    cluster: Cluster, elsewhere: Elsewhere
) -> None:
    """Its connections stay open and carry nothing. The job goes on elsewhere; the worker recovers."""
    way = LossyPostgres(cluster.folder / "way", cluster.postgres.server.url, host=elsewhere.here)
    job_id = cluster.train(100)
    cluster.worker(MIXKD_DATABASE_URL=way.url, within=elsewhere.within)
    log = cluster.folder / "worker-0.log"
    cluster.worker("--control")
    cluster.until_stored(job_id)
    trainer = cluster.trainer_of(job_id)
    elsewhere.connected(yes=False)
    until(lambda: not alive(trainer), 10, "the trainer ends with the lease")
    other = cluster.worker()
    cluster.until_ended(job_id)
    assert [one.outcome for one in cluster.bench.attempts(job_id)] == ["lost", "succeeded"]
    until(lambda: b"lost its lease" in log.read_bytes(), 90, "it does not wait for the answer for ever")
    elsewhere.connected(yes=True)
    other.kill()
    second = cluster.train(10)
    Queue(cluster.broker.server.url).wake("cpu")
    cluster.until_ended(second, seconds=60)
    way.close()
