"""The labelled data that flags name: a spec's, a file's, or a task of GLUE; and what a model makes of it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from mixkd.contract.data_spec import DataFormat, DataSpec, SetName, Task
from mixkd.contract.glue import glue_data
from mixkd.contract.problems import Problem, RefusedError, listed
from mixkd.contract.rows import read_rows
from mixkd.data import Encoded, encode
from mixkd.inputs import read_spec
from mixkd.predict import Classifier
from mixkd.prepare import refuse_unknown_tokens

_FILE: SetName = "test"  # what the one set of --data is called


def labelled_data(given: argparse.Namespace) -> tuple[DataSpec, int | None]:
    """The data, and how many tokens a row has if a spec says it.

    Raises:
        RefusedError: the spec cannot be read, the files of the task are not there, or a flag does not go with
            what was named.
    """
    path: Path = given.data
    if given.glue is None and (given.format is not None or path.suffix.lower() != ".json"):
        return file_data(given, path, label=given.label, task=given.task), None
    for flag in ("format", "text", "text_pair", "label", "task"):
        if (value := getattr(given, flag)) is not None:
            raise RefusedError(
                Problem(flag, "it is for a file of texts, and this is none", value, "leave the flag out")
            )
    if given.glue is not None:
        return glue_data(given.glue, path), None
    spec = read_spec(path)
    return spec.data, spec.recipe.max_length


def file_data(
    given: argparse.Namespace, path: Path, *, label: str | None = None, task: Task | None = None
) -> DataSpec:
    """The data of one file, with the columns that flags name; its format is in its name if no flag says it.

    Raises:
        RefusedError: a flag's value cannot be.
    """
    columns = {"text": given.text, "text_pair": given.text_pair, "label": label}
    told = {name: value for name, value in columns.items() if value is not None}
    suffix = path.suffix.removeprefix(".").lower()
    format_ = given.format or (suffix if suffix in get_args(DataFormat) else "jsonl")
    try:
        return DataSpec.model_validate(
            {"files": {_FILE: path}, "format": format_, "columns": told, "task": task or "single_label"}
        )
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise RefusedError(
            *(Problem(".".join(map(str, problem["loc"])), problem["msg"]) for problem in problems)
        ) from None


def chosen_sets(data: DataSpec, names: Sequence[str] | None) -> list[SetName]:
    """The sets that are asked for; all but `train` if none is.

    Raises:
        RefusedError: the data has no such set.
    """
    for name in names or ():
        if name not in data.files:
            raise RefusedError(
                Problem("set", "the data has no such set", name, f"choose from {', '.join(data.files)}")
            )
    chosen = list(names or (name for name in data.files if name != "train"))
    if not chosen:
        raise RefusedError(
            Problem("set", "the data has no set but train", None, "say --set train to take that one")
        )
    return chosen


def as_the_model_says(data: DataSpec, classifier: Classifier, given: argparse.Namespace) -> DataSpec:
    """The data; of a file whose task nobody named, the task is the model's.

    Raises:
        RefusedError: the model is for another task.
    """
    if list(data.files.values()) == [given.data] and given.task is None:
        data = data.model_copy(update={"task": classifier.task})
    if classifier.model.config.problem_type is None:  # its outputs say no more than this
        same = (data.task == "regression") == (classifier.task == "regression")
    else:
        same = data.task == classifier.task
    if not same:
        raise RefusedError(
            Problem("data.task", f"the model is for a {classifier.task} task", data.task,
                    "name data of that task")
        )  # fmt: skip
    return data


def encoded_set(data: DataSpec, name: SetName, classifier: Classifier) -> Encoded:
    """The rows of a set as the model's tokenizer cuts them.

    Raises:
        RefusedError: the file cannot be read, a row is bad or has a label that the model does not know, there
            is none, or the tokenizer is not the model's.
    """
    if "f1" in data.scored_by and list(classifier.labels) != list(data.labels or ()):
        raise RefusedError(
            Problem("data.metrics", f"`f1` is that of the second of two labels; the model has "
                    f"{listed(list(classifier.labels))}", "f1",
                    "name these two labels in this order, or leave `f1` out")
        )  # fmt: skip
    rows = list(read_rows(data.files[name], data, f"files.{name}"))
    if not rows:
        raise RefusedError(Problem(f"files.{name}", "there is no row in it", 0, "name a file with rows"))
    encoded = encode(rows, classifier.tokenizer, data.task, classifier.labels, classifier.max_length)
    refuse_unknown_tokens("model", classifier.model, [encoded])
    return encoded
