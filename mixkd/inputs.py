"""The run's description and a check of everything that it names. Needs no torch."""

from pathlib import Path

from pydantic import ValidationError

from mixkd.contract.fit import problems
from mixkd.contract.folder import ModelInfo, inspect_folder
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import DatasetReport, check_dataset
from mixkd.contract.spec import RunSpec


def read_spec(path: Path) -> RunSpec:
    """The run that a JSON file describes; its relative paths start at the file's folder.

    Raises:
        RefusedError: the file cannot be read or says something that no run can be.
    """
    try:
        spec = RunSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RefusedError(Problem("spec", f"cannot be read: {error.strerror}", path.name)) from None
    except ValidationError as error:
        raise RefusedError(*map(_problem, error.errors(include_url=False, include_context=False))) from None
    here = path.resolve().parent
    files = {split: here / file for split, file in spec.data.files.items()}
    data = spec.data.model_copy(update={"files": files})
    return spec.model_copy(update={"teacher": here / spec.teacher, "data": data})


def check(spec: RunSpec) -> tuple[ModelInfo, DatasetReport]:
    """What the teacher and the data are.

    Raises:
        RefusedError: one of them cannot be used, or they and the recipe do not go together.
    """
    teacher, data = inspect_folder(spec.teacher), check_dataset(spec.data)
    if found := problems(spec.recipe, teacher, data):
        raise RefusedError(*found)
    return teacher, data


def _problem(error: object) -> Problem:
    assert isinstance(error, dict)
    field = ".".join(str(part) for part in error["loc"]) or "spec"
    value = error["input"] if isinstance(error["input"], str | int | float | bool) else None
    return Problem(field, error["msg"], value)
