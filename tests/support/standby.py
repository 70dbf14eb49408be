"""A second Postgres that follows the first, commit by commit, until it is told to take its place."""

import os
import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from core import processes
from tests.support.cluster import Cluster
from tests.support.waiting import until

FOLLOWS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


class Standby:
    """A synchronous one: what the first has called committed, it has too.

    Args:
        folder: a new one, where the database's account may go.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        url = cluster.postgres.server.url
        self._first = str(make_url(url).query["host"])
        self.url = url.replace(self._first, str(folder / "sockets"))
        self._sockets, files = str(folder / "sockets"), folder / "files"
        start: Any = cluster.postgres.server.start
        argv, log, _, death_signal, account = start.args
        for made in (folder, folder / "sockets"):
            made.mkdir(mode=0o700)
        self._copy(Path(argv[2]), files)
        if account is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, account.uid, account.gid)
        ours = {
            argv[2]: files,
            f"--unix_socket_directories={self._first}": f"--unix_socket_directories={self._sockets}",
        }
        with log.with_name("standby.log").open("ab") as output:
            self._process: subprocess.Popen[bytes] = processes.spawn(
                [ours.get(part, part) for part in argv],
                death_signal=death_signal,
                output=output,
                account=account,
                env={"PATH": os.defpath},
            )
        _ask(self._first, "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        _ask(self._first, "SELECT pg_reload_conf()")
        until(lambda: _ask(self._first, FOLLOWS) == 1, what="the standby follows, commit by commit")

    def promote(self) -> None:
        """Take the place of the first one, which must be dead."""
        assert _ask(self._sockets, "SELECT pg_promote()") is True

    def end(self) -> None:
        """Stop it."""
        processes.stop(self._process, (signal.SIGINT, 10.0))

    def _copy(self, source: Path, target: Path) -> None:
        """A base backup, by hand: the wheel has no pg_basebackup."""
        with closing(
            psycopg.connect(host=self._first, user="mixkd", dbname="mixkd", autocommit=True)
        ) as first:
            first.execute("SELECT pg_backup_start('standby', true)")
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("postmaster.*"))
            label = first.execute("SELECT labelfile FROM pg_backup_stop()").fetchone()
        assert label is not None
        (target / "backup_label").write_text(label[0])
        (target / "standby.signal").touch()
        with (target / "postgresql.auto.conf").open("a") as settings:
            way = f"host={self._first} user=mixkd application_name=standby"
            settings.write(f"primary_conninfo = '{way}'\n")


def _ask(sockets: str, question: str) -> Any:
    """The first value of the answer; None: there is none."""
    with closing(psycopg.connect(host=sockets, user="mixkd", dbname="mixkd", autocommit=True)) as connection:
        answer = connection.execute(question)
        return None if answer.description is None else (answer.fetchone() or (None,))[0]
