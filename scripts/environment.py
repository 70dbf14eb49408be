"""Builds `.venv` from constraints.txt; does nothing when nothing has changed.

Started by `scripts/setup`, with the standard library only. The setting `MIXKD_TORCH` is `cpu` or `cuda`;
unset, a machine with an NVIDIA driver gets the CUDA build of PyTorch and any other the CPU build.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import assets

Build = Literal["cpu", "cuda"]

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "mixkd-setup.json"
INPUTS = ("constraints.txt", "pyproject.toml", "sdk/pyproject.toml", "scripts/environment.py")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def torch_build(setting: str | None, *, driver: bool) -> Build:
    """Which PyTorch this machine should have.

    Raises:
        SystemExit: the setting is neither `cpu` nor `cuda`.
    """
    match setting:
        case "cpu" | "cuda":
            return setting
        case None | "":
            return "cuda" if driver else "cpu"
    raise SystemExit(f"MIXKD_TORCH is {setting!r}; it must be cpu or cuda, or unset")


def has_nvidia_driver() -> bool:
    """Whether the kernel has NVIDIA's driver (under WSL only nvidia-smi shows it)."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def torch_arguments(version: str, build: Build, available: Callable[[str], bool]) -> list[str]:
    """What pip must be told so that it installs this build and no other.

    Args:
        available: whether pip's configured sources have a requirement.
    """
    cpu = f"torch=={version}+cpu"
    if build == "cuda":
        return [f"torch=={version},!={version}+cpu"]
    # PyPI's own Linux build is the CUDA one: some gigabytes of NVIDIA packages come with it.
    return [cpu] if available(cpu) else [cpu, "--index-url", CPU_INDEX]


def pip(*arguments: str, quiet: bool = False) -> bool:
    """Run the environment's pip; whether it succeeded."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    loudness = [] if sys.stderr.isatty() and not quiet else ["--quiet"]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run([*command, *loudness, *arguments], stderr=output, check=False).returncode == 0


def install(build: Build) -> None:
    """Fill the environment.

    Raises:
        SystemExit: pip failed; it has said why.
    """
    constraints = (ROOT / "constraints.txt").read_text()
    (version,) = re.findall(r"^torch==(\S+)$", constraints, re.MULTILINE)

    def available(requirement: str) -> bool:
        return pip("install", "--dry-run", "--no-deps", requirement, quiet=True)

    print(f"setup: PyTorch {version}, {build} build", flush=True)
    # Alone and first: what is then installed finds it there and does not look for another build.
    if not pip("install", "--no-deps", *torch_arguments(version, build, available)):
        raise SystemExit(
            f"setup: no {build} build of PyTorch {version} could be installed (MIXKD_TORCH chooses)"
        )
    print("setup: everything else, as pinned in constraints.txt", flush=True)
    ours = ["--editable", "./sdk", "--editable", ".[train,onnx,embedded,dev]"]
    if not pip("install", "--constraint", "constraints.txt", *ours):
        raise SystemExit("setup: pip failed")


def wanted(build: Build) -> dict[str, str]:
    """What the stamp of an up-to-date environment says."""
    inputs = hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in INPUTS)).hexdigest()
    return {"python": sys.version, "build": build, "root": str(ROOT), "inputs": inputs}


def found() -> dict[str, str]:
    """What the stamp says; nothing if the environment was never finished, or the stamp cannot be read."""
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def stamp(finished: dict[str, str]) -> None:
    """Say that the environment is finished: wholly or, should the disk be full, not at all."""
    unfinished = STAMP.with_suffix(".new")
    unfinished.write_text(json.dumps(finished))
    unfinished.replace(STAMP)


def main() -> None:
    """Bring `.venv` and the dashboard's scripts up to date."""
    os.chdir(ROOT)
    lock = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # `make demo` and `make test` may be started side by side
    bring_python()
    assets.build()


def bring_python() -> None:
    """Bring `.venv` up to date."""
    want = wanted(torch_build(os.environ.get("MIXKD_TORCH"), driver=has_nvidia_driver()))
    have = found()
    if have == want:
        return
    STAMP.unlink(missing_ok=True)  # from here on an interruption means: start afresh
    if any(have.get(key) != want[key] for key in ("python", "build", "root")):
        print(f"setup: a new .venv with Python {sys.version.split()[0]}", flush=True)
        venv.create(VENV, clear=True, with_pip=True)
    install("cuda" if want["build"] == "cuda" else "cpu")
    stamp(want)


if __name__ == "__main__":
    main()
