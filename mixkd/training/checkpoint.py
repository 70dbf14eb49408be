"""Checkpoints of one training: a folder each, there whole or not at all, and trusted only after a check.

    step-00000120/   model.safetensors, optimiser.safetensors, best.safetensors, state.json
    finished/        model.safetensors (the best weights), state.json

There is no state of a random generator in them, and none is missing: whatever is drawn comes from a generator
made anew from (seed, use, step), see `mixkd.randomness`, so that the seed and the step are the whole state of
all of them, and the position in the data too. Tensors are safetensors, all else is JSON: nothing in a
checkpoint is ever run as code.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixkd.atomic import sync_folder
from mixkd.contract.work import FINISHED, STEP

MODEL, OPTIMISER, BEST = "model.safetensors", "optimiser.safetensors", "best.safetensors"

_FORMAT = 1
_STATE = "state.json"
_SCRATCH = ".scratch-"  # begins the name of what is half-written


@dataclass(frozen=True)
class Stored:
    """A file of a checkpoint, as it was when it was written."""

    path: Path
    bytes: int
    sha256: str


class NotWrittenError(Exception):
    """A checkpoint could not be written, perhaps for want of space. The older ones are as they were."""


class _UnusableError(Exception):
    """Why nothing can go on from a folder."""


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole. `facts` is what the training noted beside its tensors."""

    folder: Path
    facts: dict[str, Any]
    files: dict[str, Stored]

    @property
    def finished(self) -> bool:
        """Whether the training was over."""
        return self.folder.name == FINISHED

    def load(self, file: str) -> dict[str, Tensor]:
        """The tensors of one of its files, on the CPU."""
        return load_file(self.files[file].path, backend="pread")  # a mapped file may change under us


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, in a folder of their own; the `keep` newest stay.

    `fingerprint` stands for all that decides the training: one with another fingerprint is of no use to it.
    """

    folder: Path
    fingerprint: str
    keep: int

    def newest(
        self, makes_sense: Callable[[dict[str, Any]], bool] = lambda _facts: True
    ) -> tuple[Checkpoint | None, list[str]]:
        """The newest that can be trusted, and what is wrong with each newer one.

        What a killed process left half-written is cleared away.

        Args:
            makes_sense: whether a training can go on from such facts.
        """
        problems: list[str] = []
        for left in self.folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        for folder in self._all():
            try:
                found = self._check(folder)
                if makes_sense(found.facts):
                    return found, problems
                problems.append(f"checkpoint {folder.name} is not used: its facts cannot be of this training")
            except _UnusableError as error:
                problems.append(f"checkpoint {folder.name} is not used: {error}")
        return None, problems

    def write(
        self, name: str, contents: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> Checkpoint:
        """Write a checkpoint, `at_step(...)` or `FINISHED`, and remove those that are too many.

        Args:
            contents: the tensors of each file.

        Raises:
            NotWrittenError
        """
        scratch = self.folder / f"{_SCRATCH}{name}"
        target = self.folder / name
        try:
            scratch.mkdir(parents=True)
            entries = {file: _put(scratch / file, tensors) for file, tensors in contents.items()}
            _put_state(scratch, {"fingerprint": self.fingerprint, "files": entries, "facts": dict(facts)})
            sync_folder(scratch)
            if target.exists():  # one that was refused
                shutil.rmtree(target)
            scratch.rename(target)
            sync_folder(self.folder)
            self._prune(target)
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise NotWrittenError(reason or type(error).__name__) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # room for others at once
        return _checkpoint(target, dict(facts), entries)

    def _all(self) -> list[Path]:
        """Newest first."""
        steps = sorted(self.folder.glob(f"{STEP}*"), reverse=True)
        return [*self.folder.glob(FINISHED), *steps]

    def _check(self, folder: Path) -> Checkpoint:
        try:
            state = json.loads((folder / _STATE).read_bytes())
            known, content = state["format"] == _FORMAT, state["content"]
            whole = state["sha256"] == _digest(content)
            entries = {file: {"bytes": int(one["bytes"]), "sha256": str(one["sha256"])}
                       for file, one in content["files"].items()}  # fmt: skip
            facts, fingerprint = dict(content["facts"]), content["fingerprint"]
        except (AttributeError, OSError, ValueError, KeyError, TypeError, RecursionError):
            raise _UnusableError(f"its {_STATE} is missing or damaged") from None
        if not known:
            raise _UnusableError("another release wrote it")
        if not whole:
            raise _UnusableError(f"its {_STATE} is damaged")
        if fingerprint != self.fingerprint:
            raise _UnusableError("it belongs to a training of other settings, data or model")
        for file, entry in entries.items():
            try:
                found = _entry(folder / file)
            except OSError:
                raise _UnusableError(f"its {file} is missing or cannot be read") from None
            if found != entry:
                raise _UnusableError(f"its {file} is damaged")
        return _checkpoint(folder, facts, entries)

    def _prune(self, written: Path) -> None:
        """Remove what is too old, and what is newer than the one just written: it had been refused."""
        folders = self._all()
        place = folders.index(written)
        for folder in folders[:place] + folders[place + self.keep :]:
            shutil.rmtree(folder)


def at_step(step: int) -> str:
    """The name of a checkpoint after a step."""
    return f"{STEP}{step:08}"


def _checkpoint(folder: Path, facts: dict[str, Any], entries: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        folder, facts, {file: Stored(path=folder / file, **entry) for file, entry in entries.items()}
    )


def _put(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write one file; its size and digest. None is a link to an older one: damage would reach both."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    _sync(path)
    return _entry(path)


def _put_state(folder: Path, content: dict[str, Any]) -> None:
    path = folder / _STATE
    path.write_text(json.dumps({"format": _FORMAT, "sha256": _digest(content), "content": content}, indent=2))
    _sync(path)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
