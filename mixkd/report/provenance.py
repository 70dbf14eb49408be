"""Where a report's numbers come from: the bytes of data and models, the versions, the machine."""

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import Field

from mixkd.augment import translator
from mixkd.contract.data_spec import SetName
from mixkd.contract.folder import wanted
from mixkd.contract.spec import RunSpec
from mixkd.contract.strict import Strict

COMMAND = "python -m mixkd run resolved.json --dir D"


class FileCard(Strict):
    """One data file."""

    bytes: int
    sha256: str


class Fingerprints(Strict):
    """SHA-256 over the sorted `[name, SHA-256]` of the files that loading a model reads, as compact JSON."""

    teacher: str
    student: str | None = Field(description="of the folder that the student came from; null: there was none")


class Origins(Strict):
    """The bytes that a run started from, and the versions that read them."""

    files: dict[SetName, FileCard]
    models: Fingerprints
    augmenters: dict[str, str] = Field(description="SHA-256 of each file and folder that an augmenter names")
    versions: dict[str, str]


def origins(spec: RunSpec) -> Origins:
    """Of a run; every file is read once."""
    augmenters = {
        f"augment.{number}.{name}": translator.fingerprint(path) if path.is_dir() else _digest(path)
        for number, augmenter in enumerate(spec.augment)
        for name, path in augmenter
        if isinstance(path, Path)
    }
    return Origins(
        files=file_cards(spec), models=fingerprints(spec), augmenters=augmenters, versions=versions()
    )


def file_cards(spec: RunSpec) -> dict[SetName, FileCard]:
    """Size and SHA-256 of each data file."""
    return {
        name: FileCard(bytes=path.stat().st_size, sha256=_digest(path))
        for name, path in spec.data.files.items()
    }


def fingerprints(spec: RunSpec) -> Fingerprints:
    """Of the models that a run started from."""
    student = None if spec.student is None else folder_digest(spec.student)
    return Fingerprints(teacher=folder_digest(spec.teacher), student=student)


def folder_digest(folder: Path) -> str:
    """One SHA-256 for the files of a model's folder that loading it reads, and their names."""
    files = sorted(
        (path.name, _digest(path)) for path in folder.iterdir() if wanted(path.name) and path.is_file()
    )
    return hashlib.sha256(json.dumps(files, separators=(",", ":")).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of Python and of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in ("mixkd", "torch", "transformers", "tokenizers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            found[name] = "unknown"
    return found


def device_name(device: torch.device) -> str:
    """What did the work, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
