"""Brings a job's teacher and data here and writes the run that the trainer reads."""

from collections.abc import Callable
from pathlib import Path

from core.jobs.claims import Claim
from core.storage import Storage
from mixkd.contract.spec import RunSpec


def fetch(storage: Storage, claim: Claim, folder: Path, check: Callable[[], None]) -> Path:
    """Copy every file of the job into `folder`, checked against its SHA-256, and write `spec.json`.

    Args:
        check: called between chunks; what it raises ends the copying.

    Returns:
        The path of `spec.json`.

    Raises:
        CorruptFileError: a stored file is not what its manifest promises.
        pydantic.ValidationError: the recipe is not one of this release.
    """
    teacher = folder / "teacher"
    for path, promised in claim.teacher_files.items():
        storage.fetch(f"{claim.teacher_prefix}/{path}", teacher / path, promised, check)
    data = {}
    for split, (path, promised) in claim.data_files.items():
        data[split] = folder / "data" / path
        storage.fetch(f"{claim.data_prefix}/{path}", data[split], promised, check)
    run = RunSpec.model_validate(
        {
            "teacher": teacher,
            "data": {**claim.data_reading, "files": data},
            "recipe": claim.recipe,
        }
    )
    spec = folder / "spec.json"
    spec.write_text(run.model_dump_json(indent=2))
    return spec
