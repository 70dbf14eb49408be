"""`export`: a model's folder written anew, as plain transformers loads it, and as ONNX."""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from mixkd.atomic import write_text
from mixkd.cli.labelled import as_the_model_says, chosen_sets, encoded_set, labelled_data
from mixkd.cli.show import Table, answer, size, unwritable
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.strict import Strict
from mixkd.export.folder import replacing, write
from mixkd.export.onnx import export_onnx, refuse_missing_packages
from mixkd.export.onnx_check import OnnxCard
from mixkd.predict import Classifier, load
from mixkd.prepare import find_device
from mixkd.quiet import quiet_libraries
from mixkd.training.control import Control

_MANIFEST = "export.json"


class Exported(Strict):
    """What was written, and what was not for want of a good one."""

    files: dict[str, int]  # bytes, by name
    onnx: tuple[OnnxCard, ...]


class Manifest(Strict):
    """What an export wrote, in its folder; one that is still exactly that may be replaced by another."""

    written_by: Literal["python -m mixkd export"] = "python -m mixkd export"
    sha256: dict[str, str]  # by name


def main(given: argparse.Namespace) -> int:
    """Load the model with plain transformers, and write it; the folder is left as it was if anything fails.

    Raises:
        RefusedError: the model or the data cannot be used, the folder cannot be written, no ONNX file is
            good, or the packages that write one are missing.
        NotFiniteError: the model answers with NaN or infinity.
    """
    Control().install()  # SIGTERM ends it after it has tidied up
    folder = given.dir.resolve()
    _refuse_loss(folder, given.model.resolve())
    max_length = given.max_length
    if given.data is not None:
        refuse_missing_packages()
        of_spec = labelled_data(given)[1]
        max_length = of_spec if max_length is None else max_length
    quiet_libraries()
    classifier = load(given.model, find_device("cpu"), max_length)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder) as scratch:
            write(classifier.model, classifier.tokenizer, scratch)
            cards = _onnx(classifier, given, scratch) if given.data is not None else ()
            manifest = Manifest(sha256=_digests(scratch))
            write_text(scratch / _MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise unwritable("dir", folder, error) from None
    sizes = {name: (folder / name).stat().st_size for name in (*manifest.sha256, _MANIFEST)}
    found = Exported(files=sizes, onnx=tuple(cards))
    answer(found, _tables(found), as_json=given.json)
    return 0


def _onnx(classifier: Classifier, given: argparse.Namespace, folder: Path) -> Sequence[OnnxCard]:
    data, _ = labelled_data(given)
    data = as_the_model_says(data, classifier, given)
    name = chosen_sets(data, given.set)[-1]  # the last one: a test set comes after a validation set
    rows = encoded_set(data, name, classifier)
    cards = export_onnx(classifier.model, rows, folder, task=data.task, metrics=data.scored_by)
    if not any(card.kept for card in cards):
        problem = "no file is good. " + "; ".join(f"{card.variant}: {card.reason}" for card in cards)
        raise RefusedError(Problem("onnx", problem, None, "leave --onnx out to have the model alone"))
    return cards


def _tables(found: Exported) -> list[Table]:
    files = Table("Written", ("file", "size"), [(name, size(count)) for name, count in found.files.items()])
    if not found.onnx:
        return [files]
    cards = [(card.variant, "kept" if card.kept else f"not kept: {card.reason}") for card in found.onnx]
    return [files, Table("ONNX, checked against torch", ("", ""), cards)]


def _refuse_loss(folder: Path, model: Path) -> None:
    """Writing replaces the folder whole: nothing but an earlier export is to be lost that way."""
    try:
        if folder in (model, *model.parents):
            raise RefusedError(Problem("dir", "MODEL lies in it", folder.name, "name a new folder"))
        if not _replaceable(folder):
            problem = "it holds more or other files than an earlier export wrote"
            raise RefusedError(Problem("dir", problem, folder.name, "name a new folder"))
    except OSError as error:
        raise unwritable("dir", folder, error) from None


def _replaceable(folder: Path) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return True
    if not (folder / _MANIFEST).is_file():
        return False
    try:
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except ValidationError:  # somebody else's
        return False
    return _digests(folder) == manifest.sha256


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below the folder but the manifest, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _MANIFEST:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
