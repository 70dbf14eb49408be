"""Whether a recipe, the models and a data set go together. Checked at submission and again by the trainer."""

from collections.abc import Iterator, Sequence
from itertools import chain

from mixkd.contract.data_spec import MetricName
from mixkd.contract.families import FAMILIES
from mixkd.contract.folder import ModelInfo
from mixkd.contract.problems import Problem, listed
from mixkd.contract.rows import CARVED_SHARE, DatasetReport
from mixkd.contract.spec import DistilSpec

_FIXED = {
    "architectures", "id2label", "label2id", "max_position_embeddings", "model_type", "num_hidden_groups",
    "num_labels", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
    "type_vocab_size", "vocab_size",
}  # fmt: skip
"""Fields of config.json that no recipe may change; the trainer, which has the teacher's, knows of more."""


def problems(
    recipe: DistilSpec,
    teacher: ModelInfo,
    data: DatasetReport,
    *,
    student: ModelInfo | None = None,
    metrics: Sequence[MetricName] = (),
) -> list[Problem]:
    """Everything that does not fit, with the fields named as in a job request; empty if all does.

    Args:
        student: the model in the run's `student` folder; a job of the service has none.
        metrics: what the data says that models are scored by.
    """
    return list(
        chain(
            _student_problems(recipe, teacher, student),
            _length_problems(recipe, teacher, student),
            _row_problems(recipe, data),
            _head_problems(recipe, teacher, data),
            _loss_problems(recipe, _outputs(recipe, teacher, data), data),
            _metric_problems(metrics, _outputs(recipe, teacher, data)),
        )
    )


def needs_teaching(recipe: DistilSpec, teacher: ModelInfo) -> bool:
    """Whether the job itself fine-tunes the teacher, under a new head."""
    return recipe.teach.when == "always" or (recipe.teach.when == "auto" and teacher.labels is None)


def _outputs(recipe: DistilSpec, teacher: ModelInfo, data: DatasetReport) -> list[str]:
    """The labels of teacher and student, in order; of a score nothing that anyone asks for by name."""
    if teacher.labels is None or needs_teaching(recipe, teacher):
        return data.labels
    return teacher.labels


# -- the student -----------------------------------------------------------------------------------------


def _student_problems(recipe: DistilSpec, teacher: ModelInfo, student: ModelInfo | None) -> Iterator[Problem]:
    init = recipe.student.init
    if init in ("teacher", "config") and student is not None:
        yield Problem("student", f"`recipe.student.init` is `{init}`, which takes no model of its own",
                      init, "leave `student` out, or choose `model` or `origin`")  # fmt: skip
    if init == "origin" and needs_teaching(recipe, teacher) and student is not None:
        yield Problem("student", "`recipe.student.init` is `origin`, and the teacher's own folder is what it "
                      "was before this run fine-tunes it", init,
                      "leave `student` out, or choose `model`")  # fmt: skip
    if init == "config":
        yield from _config_problems(recipe, teacher)
        return
    if init == "teacher" or (init == "origin" and needs_teaching(recipe, teacher)):
        yield from _layer_problems(recipe, teacher, "the teacher")
        return
    if student is None:
        what = "a pre-trained model" if init == "model" else "the model that the teacher was fine-tuned from"
        yield Problem("recipe.student.init", f"it needs {what}, which is not given", init,
                      "a job of the service cannot name it yet: give its folder as `student` to "
                      "`python -m mixkd run`")  # fmt: skip
        return
    if init == "origin":
        for name in ("family", "vocab_size", "hidden_size"):
            ours, theirs = getattr(student, name), getattr(teacher, name)
            if ours != theirs:
                yield Problem("student", f"it is not what the teacher was before: its {name} is {ours}, the "
                              f"teacher's {theirs}", ours,
                              "name the teacher's own origin, or choose `model`")  # fmt: skip
    yield from _layer_problems(recipe, student, "the student's model")


def _layer_problems(recipe: DistilSpec, source: ModelInfo, whose: str) -> Iterator[Problem]:
    """Without a wish nothing can be wrong: a student of a teacher of two layers has two."""
    wanted, there = recipe.student.layers, source.layers
    if FAMILIES[source.family].shared_layers and (
        isinstance(wanted, tuple) or recipe.student.pick != "first"
    ):
        yield Problem("recipe.student.layers", f"all layers of {whose} are the same one: only their number "
                      "counts", wanted, "give a number of layers, and leave `pick` out")  # fmt: skip
    elif isinstance(wanted, tuple) and wanted[-1] >= there:
        yield Problem("recipe.student.layers", f"{whose} has the layers 0 to {there - 1}", list(wanted),
                      f"choose from 0 to {there - 1}")  # fmt: skip
    elif isinstance(wanted, int) and wanted > there:
        yield Problem("recipe.student.layers", f"{whose} has {there} layers", wanted,
                      f"choose 1 to {there}")  # fmt: skip


def _config_problems(recipe: DistilSpec, teacher: ModelInfo) -> Iterator[Problem]:
    student = recipe.student
    if isinstance(student.layers, tuple) or student.pick != "first":
        yield Problem("recipe.student.layers", "random layers cannot be picked from", student.layers,
                      "give their number")  # fmt: skip
    for name in student.config:
        if name in _FIXED or name.startswith("_") or name.endswith("_token_id"):
            yield Problem("recipe.student.config", f"`{name}` cannot differ from the teacher's", name,
                          "leave it out")  # fmt: skip
    layers_key = FAMILIES[teacher.family].layers_key
    if student.layers is not None and layers_key in student.config:
        yield Problem("recipe.student.config", f"`layers` says what `{layers_key}` is", layers_key,
                      "give one of them")  # fmt: skip


def _length_problems(recipe: DistilSpec, teacher: ModelInfo, student: ModelInfo | None) -> Iterator[Problem]:
    readers = {"the teacher": teacher}
    if student is not None and recipe.student.init == "model":
        readers["the student's model"] = student
    for whose, model in readers.items():
        if recipe.max_length > model.max_positions:
            yield Problem(
                "recipe.max_length",
                f"{whose} reads at most {model.max_positions} tokens",
                recipe.max_length,
                f"choose 4 to {model.max_positions}",
            )


# -- the data --------------------------------------------------------------------------------------------


def _row_problems(recipe: DistilSpec, data: DatasetReport) -> Iterator[Problem]:
    train = data.splits["train"]
    texts = train.rows - train.duplicate_rows
    if train.rows < 2:
        yield Problem("dataset_id", "mixup needs at least two training rows", train.rows,
                      "use a data set with more rows")  # fmt: skip
        return
    if "validation" not in data.splits and texts < 2:
        yield Problem("dataset_id",
                      "all training rows have the same text, so none can be set aside for validation",
                      train.rows, "use a data set with more texts, or with a validation file")  # fmt: skip
        return
    aside = 0 if "validation" in data.splits else max(round(CARVED_SHARE * texts), 1)
    there = train.rows - aside  # at most: with a text all its rows are set aside
    if there < 2:
        yield Problem("dataset_id", "mixup needs two training rows; one is left beside those for validation",
                      train.rows, "use a data set with more texts, or with a validation file")  # fmt: skip
        return
    if recipe.train_examples is not None and recipe.train_examples > there:
        without = f", without the {aside} that are set aside for validation" if aside else ""
        yield Problem("recipe.train_examples", f"there are {there} training rows{without}",
                      recipe.train_examples, f"choose 2 to {there}")  # fmt: skip


def _head_problems(recipe: DistilSpec, teacher: ModelInfo, data: DatasetReport) -> Iterator[Problem]:
    if needs_teaching(recipe, teacher):
        return  # the teacher gets a new head for the data
    if teacher.labels is None:
        yield Problem(
            "recipe.teach.when",
            "the teacher has no classification head, so it must be fine-tuned before it can teach",
            "never",
            "choose `auto` or `always`, or a teacher with a head",
        )
        return
    new_head = "set `recipe.teach.when` to `always` to give the teacher a new head"
    if data.task == "regression":
        if len(teacher.labels) != 1:
            yield Problem(
                "dataset_id",
                "its labels are scores, which need a teacher with one output; this one has "
                f"{listed(teacher.labels)}",
                data.task,
                f"use another teacher, or {new_head}",
            )
        return
    outside = sorted(set(data.labels) - set(teacher.labels))
    if outside:
        yield Problem(
            "dataset_id",
            f"labels that the teacher does not know: {listed(outside)}. "
            f"The data has {listed(data.labels)}; the teacher has {listed(teacher.labels)}",
            outside[:20],
            f"correct the labels, or {new_head}",
        )


def _loss_problems(recipe: DistilSpec, outputs: Sequence[str], data: DatasetReport) -> Iterator[Problem]:
    loss = recipe.loss
    if data.task == "regression" and loss.distance != "mse_logits":
        yield Problem("recipe.loss.distance", "a score has no probabilities", loss.distance,
                      "choose `mse_logits`")  # fmt: skip
    if data.task == "regression" and loss.label_smoothing:
        yield Problem("recipe.loss.label_smoothing", "a score cannot be spread over classes",
                      loss.label_smoothing, "choose 0")  # fmt: skip
    if data.task != "single_label" and loss.class_weights != "none":
        yield Problem("recipe.loss.class_weights", f"they are for a single label; the data is {data.task}",
                      loss.class_weights, "choose `none`")  # fmt: skip
    elif isinstance(loss.class_weights, dict):
        strange = sorted(loss.class_weights.keys() - set(outputs))
        if strange:
            yield Problem("recipe.loss.class_weights", f"no such labels: {listed(strange)}; there are "
                          f"{listed(outputs)}", strange[:20], "name labels as the data does")  # fmt: skip


def _metric_problems(metrics: Sequence[MetricName], outputs: Sequence[str]) -> Iterator[Problem]:
    if "f1" in metrics and len(outputs) != 2:
        yield Problem("data.metrics", f"`f1` is that of the second of two labels; there are {len(outputs)}: "
                      f"{listed(outputs)}", "f1", "choose `macro_f1`")  # fmt: skip
