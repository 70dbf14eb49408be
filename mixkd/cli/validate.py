"""`validate`: whether a run can work, and what it is about. Loads torch only where an extra needs it."""

import argparse

from mixkd.cli.show import Table, answer, number
from mixkd.contract.folder import ModelInfo
from mixkd.contract.rows import DatasetReport
from mixkd.contract.strict import Strict
from mixkd.inputs import check, read_spec


class Found(Strict):
    """What a run's teacher and data are."""

    teacher: ModelInfo
    data: DatasetReport


def main(given: argparse.Namespace) -> int:
    """Check everything that the spec names.

    Raises:
        RefusedError: with everything that was found wrong.
    """
    spec = read_spec(given.spec)
    teacher, data = check(spec)
    if spec.augment or spec.recipe.onnx:
        from mixkd.run import check_extras

        check_extras(spec)
    answer(Found(teacher=teacher, data=data), [_teacher(teacher), *_data(data)], as_json=given.json)
    return 0


def _teacher(teacher: ModelInfo) -> Table:
    facts = [
        ("family", teacher.family),
        ("layers", number(teacher.layers)),
        ("hidden size", number(teacher.hidden_size)),
        ("parameters", number(teacher.parameters)),
        ("longest input", f"{number(teacher.max_positions)} tokens"),
        ("labels", ", ".join(teacher.labels) if teacher.labels else "no classification head"),
    ]
    return Table("Teacher", ("", ""), facts)


def _data(data: DatasetReport) -> list[Table]:
    sets = Table(
        f"Data: {data.task}",
        ("set", "rows", "repeated", "skipped", "median length", "longest"),
        [
            (
                name,
                number(found.rows),
                number(found.duplicate_rows),
                number(data.skipped_rows.get(name, 0)),
                f"{number(found.characters.median)} characters",
                f"{number(found.characters.max)} characters",
            )
            for name, found in data.splits.items()
        ],
    )
    if data.score_range is not None:
        return [
            sets,
            Table(
                "Scores",
                ("", ""),
                [("lowest", str(data.score_range[0])), ("highest", str(data.score_range[1]))],
            ),
        ]
    labels = Table(
        "Labels",
        ("label", *data.splits),
        [
            (label, *(number(found.label_counts.get(label, 0)) for found in data.splits.values()))
            for label in data.labels
        ],
    )
    return [sets, labels]
