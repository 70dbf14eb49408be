"""`export`: a model's folder written anew, as plain transformers loads it, and as ONNX."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mixkd.cli.labelled import as_the_model_says, chosen_sets, encoded_set, labelled_data
from mixkd.cli.show import Table, answer, size, unwritable
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.strict import Strict
from mixkd.export.folder import export
from mixkd.export.onnx import export_onnx, refuse_missing_packages
from mixkd.export.onnx_check import OnnxCard
from mixkd.predict import Classifier, load
from mixkd.prepare import find_device
from mixkd.quiet import quiet_libraries


class Exported(Strict):
    """What was written, and what was not for want of a good one."""

    files: dict[str, int]  # bytes, by name
    onnx: tuple[OnnxCard, ...]


def main(given: argparse.Namespace) -> int:
    """Load the model with plain transformers, and write it; 1 if ONNX was asked for and no file is good.

    Raises:
        RefusedError: the model or the data cannot be used, the folder cannot be written, or the packages that
            write ONNX are missing.
        NotFiniteError: the model answers with NaN or infinity.
    """
    folder = given.dir.resolve()
    _refuse_other_folder(folder)
    max_length = given.max_length
    if given.data is not None:
        refuse_missing_packages()
        max_length = max_length or labelled_data(given)[1]
    quiet_libraries()
    classifier = load(given.model, find_device("cpu"), max_length)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        export(classifier.model, classifier.tokenizer, folder)
        cards = _onnx(classifier, given, folder) if given.data is not None else ()
    except OSError as error:
        raise unwritable("dir", folder, error) from None
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    found = Exported(
        files={path.relative_to(folder).as_posix(): path.stat().st_size for path in written},
        onnx=tuple(cards),
    )
    answer(found, _tables(found), as_json=given.json)
    return 1 if found.onnx and not any(card.kept for card in found.onnx) else 0


def _onnx(classifier: Classifier, given: argparse.Namespace, folder: Path) -> Sequence[OnnxCard]:
    data, _ = labelled_data(given)
    data = as_the_model_says(data, classifier, given)
    name = chosen_sets(data, given.set)[-1]  # the last one: a test set comes after a validation set
    rows = encoded_set(data, name, classifier)
    return export_onnx(classifier.model, rows, folder, task=data.task, metrics=data.scored_by)


def _tables(found: Exported) -> list[Table]:
    files = Table("Written", ("file", "size"), [(name, size(count)) for name, count in found.files.items()])
    if not found.onnx:
        return [files]
    cards = [(card.variant, "kept" if card.kept else f"not kept: {card.reason}") for card in found.onnx]
    return [files, Table("ONNX, checked against torch", ("", ""), cards)]


def _refuse_other_folder(folder: Path) -> None:
    """Writing replaces the folder whole: what is not a model is not to be lost that way."""
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not free and not (folder / "config.json").is_file():
        raise RefusedError(
            Problem("dir", "it is there and is not a model's folder", folder.name, "name a new folder")
        )
