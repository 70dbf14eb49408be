"""The run's description and a check of everything that it names. Needs no torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from mixkd.contract.fit import problems
from mixkd.contract.folder import ModelInfo, inspect_folder
from mixkd.contract.glue import glue_data
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import DatasetReport, check_dataset
from mixkd.contract.spec import RunSpec
from mixkd.contract.strict import Strict

Found = TypeVar("Found")


def read_spec(path: Path) -> RunSpec:
    """The run that a JSON file describes; its relative paths start at the file's folder.

    Of a link that is the folder where the link lies: what is beside it is what its user sees.

    `{"glue": "sst2", "folder": "glue/SST-2"}` as `data` stands for that task as `glue_data` describes it.

    Raises:
        RefusedError: the file cannot be read or says something that no run can be.
    """
    here = path.absolute().parent
    try:
        given = from_json(path.read_bytes())
        if isinstance(given, dict) and isinstance(given.get("data"), dict) and "glue" in given["data"]:
            given["data"] = _glue(here, given["data"])
        spec = RunSpec.model_validate(given)
    except OSError as error:
        raise RefusedError(Problem("spec", f"cannot be read: {error.strerror}", path.name)) from None
    except ValidationError as error:
        raise RefusedError(*map(_problem, error.errors(include_url=False, include_context=False))) from None
    except ValueError as error:
        raise RefusedError(Problem("spec", f"Invalid JSON: {error}", path.name)) from None
    files = {name: here / file for name, file in spec.data.files.items()}
    changes = {"data": spec.data.model_copy(update={"files": files}),
               "augment": tuple(_absolute(here, augmenter) for augmenter in spec.augment)}  # fmt: skip
    return _absolute(here, spec.model_copy(update=changes))


def check(spec: RunSpec) -> tuple[ModelInfo, DatasetReport]:
    """What the teacher and the data are.

    Raises:
        RefusedError: something that is named is not there or cannot be used, or the parts do not go together.
            It has everything that was found; a file in the teacher's folder is `teacher/config.json`.
    """
    found: list[Problem] = [*_missing(spec)]
    teacher = _try(lambda: inspect_folder(spec.teacher), found, "teacher")
    student = None
    if spec.student is not None:
        folder = spec.student
        student = _try(lambda: inspect_folder(folder), found, "student")
    data = _try(lambda: check_dataset(spec.data), found)
    if found or teacher is None or data is None:
        raise RefusedError(*found)
    if found := problems(spec.recipe, teacher, data, student=student, metrics=spec.data.scored_by):
        raise RefusedError(*found)
    return teacher, data


SomeSpec = TypeVar("SomeSpec", bound=Strict)


def _absolute(here: Path, spec: SomeSpec) -> SomeSpec:
    """The same with paths that do not depend on where the program runs."""
    return spec.model_copy(update={name: here / value for name, value in spec if isinstance(value, Path)})


def _glue(here: Path, given: dict[str, object]) -> dict[str, object]:
    for key in given:
        if key not in ("glue", "folder"):
            raise RefusedError(
                Problem(f"data.{key}", "it does not go with `glue`, which says all but the folder",
                        None, "leave it out")
            )  # fmt: skip
    folder = given.get("folder")
    if not isinstance(folder, str):
        raise RefusedError(Problem("data.folder", "the task's folder is needed", None, "name it"))
    return glue_data(str(given["glue"]), here / folder).model_dump()


def _missing(spec: RunSpec) -> Iterator[Problem]:
    for number, augmenter in enumerate(spec.augment):
        for name, value in augmenter:
            if isinstance(value, Path) and not _exists(value):
                yield Problem(f"augment.{number}.{name}", "there is no such file or folder", value.name,
                              "check its name")  # fmt: skip


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _try(attempt: Callable[[], Found], problems: list[Problem], folder: str | None = None) -> Found | None:
    """What the attempt gives, or None with its problems added to the others'; `folder` is what it reads."""
    try:
        return attempt()
    except RefusedError as refused:
        problems.extend(refused.problems if folder is None else _within(folder, refused.problems))
        return None


def _within(folder: str, problems: Sequence[Problem]) -> Iterator[Problem]:
    """A folder's problems, which name it `folder` and its files relative to it."""
    for problem in problems:
        yield replace(problem, field=folder if problem.field == "folder" else f"{folder}/{problem.field}")


def _problem(error: object) -> Problem:
    assert isinstance(error, dict)
    field = ".".join(str(part) for part in error["loc"]) or "spec"
    value = error["input"] if isinstance(error["input"], str | int | float | bool) else None
    return Problem(field, error["msg"], value)
