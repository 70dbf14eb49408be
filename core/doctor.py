"""`mixkd-server doctor`: what a service with these settings needs, part by part."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Engine, text

from core import schema
from core.config import Settings
from core.db import connect
from core.queue import Queue
from core.storage import Storage

TORCH_SECONDS = 120.0

_TORCH = """
import torch, transformers
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["the CPU"]
print(f"torch {torch.__version__}, transformers {transformers.__version__}, on {', '.join(devices)}")
"""


@dataclass(frozen=True)
class Finding:
    """One part: whether it is as it should be, and what was seen."""

    part: str
    ok: bool
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at every part, also after one that is not well."""
    engine = connect(settings)
    checks: dict[str, Callable[[], str]] = {
        "database": lambda: _database(engine),
        "schema": lambda: _schema(engine),
        "broker": lambda: _broker(settings),
        "storage": lambda: _storage(settings),
        "trainer": _trainer,
    }
    for part, check in checks.items():
        try:
            yield Finding(part, ok=True, detail=check())
        except Exception as error:
            lines = str(error).strip().splitlines()
            yield Finding(part, ok=False, detail=lines[0] if lines else type(error).__name__)
    engine.dispose()


def _database(engine: Engine) -> str:
    with engine.connect() as connection:
        version = connection.execute(text("SHOW server_version")).scalar_one()
    return f"Postgres {version}"


def _schema(engine: Engine) -> str:
    schema.require_current(engine)
    return f"revision {schema.current(engine)}"


def _broker(settings: Settings) -> str:
    Queue(settings.broker_url.get_secret_value()).ping()
    return "it answers"


def _storage(settings: Settings) -> str:
    Storage(settings.storage_url).ping()
    return settings.storage_url


def _trainer() -> str:
    """In a process of its own: nothing but the trainer loads torch."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", _TORCH],
        capture_output=True,
        text=True,
        timeout=TORCH_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise RuntimeError(f"{lines[-1]}; pip install 'mixkd[train]'")
    return result.stdout.strip()
