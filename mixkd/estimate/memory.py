"""How much memory this process took, and how much there is to take. In bytes; needs no torch."""

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def available(groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> int:
    """What a new process may take: the least of what the machine has left and what our control groups leave.

    Args:
        groups: where the kernel shows its control groups.
        own: which of them this process is in.
    """
    left = [psutil.virtual_memory().available]
    for folder in _folders(groups, own):
        with contextlib.suppress(OSError, ValueError):  # no limit, or not a group of this kind
            left.append(_left_in(folder))
    return max(0, min(left))


def _folders(groups: Path, own: Path) -> Iterator[Path]:
    """The memory groups of this process and all above them, whose limits bind it as well."""
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" or "memory" in controllers.split(","):
                root = groups if number == "0" else groups / "memory"
                folder = root / path.lstrip("/")
                yield from (folder, *(above for above in folder.parents if above.is_relative_to(root)))


def _left_in(folder: Path) -> int:
    second = (folder / "memory.max").exists()  # of cgroups the second version
    names = ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (int((folder / name).read_text(encoding="utf-8")) for name in names)
    cached = "inactive_file" if second else "total_inactive_file"
    lines = (line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
    return limit - used + next((int(value) for name, value in lines if name == cached), 0)


def resident() -> int:
    """What this process has in memory now."""
    return int(psutil.Process().memory_info().rss)


def peak() -> int:
    """The most that this process ever had in memory, or has had since `forget_peak`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Begin to look for the peak anew; where the kernel cannot, it stays that of the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def die_first() -> None:
    """If memory runs out, let the kernel end this process rather than any other."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
