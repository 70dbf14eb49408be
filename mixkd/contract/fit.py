"""Whether a recipe, a teacher and a data set go together. Checked at submission and again by the trainer."""

from mixkd.contract.folder import ModelInfo
from mixkd.contract.problems import Problem, listed
from mixkd.contract.rows import DatasetReport
from mixkd.contract.spec import DistilSpec


def problems(recipe: DistilSpec, teacher: ModelInfo, data: DatasetReport) -> list[Problem]:
    """Everything that does not fit, with the fields named as in a job request; empty if all does."""
    found = []
    if recipe.student.layers > teacher.layers:
        found.append(
            Problem(
                "recipe.student.layers",
                f"the teacher has {teacher.layers} layers",
                recipe.student.layers,
                f"choose 1 to {teacher.layers}",
            )
        )
    if recipe.max_length > teacher.max_positions:
        found.append(
            Problem(
                "recipe.max_length",
                f"the teacher reads at most {teacher.max_positions} tokens",
                recipe.max_length,
                f"choose 4 to {teacher.max_positions}",
            )
        )
    return found + _row_problems(data) + _label_problems(recipe, teacher, data)


def _row_problems(data: DatasetReport) -> list[Problem]:
    train = data.splits["train"]
    if train.rows < 2:
        problem, remedy = "mixup needs at least two training rows", "use a data set with more rows"
    elif "validation" not in data.splits and train.rows - train.duplicate_rows < 2:
        problem = "all training rows have the same text, so none can be set aside for validation"
        remedy = "use a data set with more texts, or with a validation file"
    else:
        return []
    return [Problem("dataset_id", problem, train.rows, remedy)]


def _label_problems(recipe: DistilSpec, teacher: ModelInfo, data: DatasetReport) -> list[Problem]:
    if recipe.teach.when == "always":
        return []  # the teacher gets a new head with the data's labels
    if teacher.labels is None:
        if recipe.teach.when == "auto":
            return []
        return [
            Problem(
                "recipe.teach.when",
                "the teacher has no classification head, so it must be fine-tuned before it can teach",
                "never",
                "choose `auto` or `always`, or a teacher with a head",
            )
        ]
    outside = sorted(set(data.labels) - set(teacher.labels))
    if not outside:
        return []
    return [
        Problem(
            "dataset_id",
            f"labels that the teacher does not know: {listed(outside)}. "
            f"The data has {listed(data.labels)}; the teacher has {listed(teacher.labels)}",
            outside[:20],
            "correct the labels, or set `recipe.teach.when` to `always` to give the teacher a new head",
        )
    ]
