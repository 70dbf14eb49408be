"""Scratch folders: gone with their use, and swept after their process's death only."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.scratch import scratch, sweep

HOLD = """
import sys
from pathlib import Path
from core.scratch import scratch
with scratch(Path(sys.argv[1]), "held") as folder:
    (folder / "file").touch()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_it_is_ours_alone_and_gone_afterwards(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch(tmp_path / "work", "one") as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "sub").mkdir()
            (folder / "sub" / "file").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_sweep_spares_the_living_and_takes_what_the_dead_left(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder:
        assert holder.stdout.readline() == b"held\n"
        assert sweep(tmp_path) == []
        assert (tmp_path / "held" / "file").exists()
        holder.kill()
        holder.wait()
        assert sweep(tmp_path) == ["held"]
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_follows_no_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    (work / "link").symlink_to(elsewhere)
    assert sweep(work) == []
    assert elsewhere.exists()
