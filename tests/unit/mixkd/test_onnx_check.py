"""What counts as broken: files whose answers are known to the last bit, run by ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from mixkd.contract.data_spec import MetricName, Task
from mixkd.data import Encoded
from mixkd.export.onnx_check import Reference, Variant, check

ROWS = 100
Floats = NDArray[np.float32]


def reference(
    task: Task, logits: Floats, targets: Floats | NDArray[np.int64], metric: MetricName
) -> Reference:
    """What torch is said to have answered to `ROWS` rows: row i is the tokens i and 7."""
    tokens = np.stack([np.arange(ROWS), np.full(ROWS, 7)], -1).astype(np.int32).ravel()
    starts = np.arange(0, 2 * ROWS + 1, 2)
    rows = Encoded(tokens, np.zeros_like(tokens, np.uint8), starts, targets, logits.shape[1], 0)
    return Reference(rows, np.arange(ROWS), task, (metric,), logits, run=lambda _: logits)


def file_that_answers(logits: Floats, folder: Path) -> Path:
    """An ONNX file that looks a row's answer up by its first token."""
    table = numpy_helper.from_array(logits, "table")
    first = numpy_helper.from_array(np.array(0), "first")
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["input_ids", "first"], ["row"], axis=1),
            helper.make_node("Gather", ["table", "row"], ["logits"], axis=0),
        ],
        "lookup",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", logits.shape[1]])],
        [table, first],
    )
    path = folder / "model.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def right_logits() -> tuple[Floats, NDArray[np.int64]]:
    """Answers of a three-class model that is always right, and the classes."""
    classes = np.arange(ROWS) % 3
    return np.where(np.arange(3) == classes[:, None], 2, -1).astype(np.float32), classes


def changed(logits: Floats, rows: int) -> Floats:
    """The same answers, but those of the first rows say the next class."""
    return np.concatenate([np.roll(logits[:rows], 1, axis=1), logits[rows:]])


@pytest.mark.parametrize(("share", "kept"), [(0.9e-3, True), (1.1e-3, False)])
def test_fp32_may_differ_by_rounding_only(tmp_path: Path, share: float, kept: bool) -> None:
    logits, classes = right_logits()
    moved = logits.copy()
    moved[17, 1] += share * logits.std()
    path = file_that_answers(moved, tmp_path)
    card = check(path, "fp32", reference("single_label", logits, classes, "accuracy"))
    assert card.kept is path.exists() is kept
    assert card.check is not None
    assert card.check.largest_difference == pytest.approx(share, rel=1e-3)
    assert card.reason is None if kept else "standard deviations from torch's" in str(card.reason)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_units_of_the_answers_do_not_matter(tmp_path: Path, scale: float) -> None:
    scores = (scale * np.linspace(1, 5, ROWS, dtype=np.float32))[:, None]
    moved = scores.copy()
    moved[3] += 2e-3 * scores.std()
    card = check(
        file_that_answers(moved, tmp_path), "fp32", reference("regression", scores, scores, "pearson")
    )
    assert not card.kept


def test_answers_that_never_vary_can_still_be_right(tmp_path: Path) -> None:
    logits = np.zeros((ROWS, 1), dtype=np.float32)
    card = check(file_that_answers(logits, tmp_path), "fp32", reference("regression", logits, logits, "rmse"))
    assert card.kept


@pytest.mark.parametrize(("rows", "kept"), [(1, True), (3, False)])
def test_int8_may_lose_two_points(tmp_path: Path, rows: int, kept: bool) -> None:
    logits, classes = right_logits()
    path = file_that_answers(changed(logits, rows), tmp_path)
    card = check(path, "int8", reference("single_label", logits, classes, "accuracy"))
    assert card.kept is path.exists() is kept
    assert card.check is not None
    assert (card.check.torch["accuracy"], card.check.onnx["accuracy"]) == (1, 1 - rows / ROWS)
    assert card.reason == (None if kept else "accuracy goes from 1 to 0.97")


@pytest.mark.parametrize(("rows", "kept"), [(5, True), (6, False)])
def test_int8_gives_torchs_answer_to_most_rows_also_where_both_are_wrong(
    tmp_path: Path, rows: int, kept: bool
) -> None:
    logits, classes = right_logits()
    wrong = (classes + 2) % 3  # what `changed` never says
    path = file_that_answers(changed(logits, rows), tmp_path)
    card = check(path, "int8", reference("single_label", logits, wrong, "accuracy"))
    assert card.kept is path.exists() is kept
    assert card.check is not None
    assert card.check.agreement == pytest.approx(1 - rows / ROWS)
    assert card.check.onnx["accuracy"] == card.check.torch["accuracy"] == 0


def test_a_row_of_several_labels_agrees_in_all_of_them(tmp_path: Path) -> None:
    targets = (np.arange(3 * ROWS).reshape(ROWS, 3) % 2).astype(np.float32)
    logits = 2 * targets - 1
    moved = logits.copy()
    moved[:4, 0] *= -1  # one label of each
    card = check(
        file_that_answers(moved, tmp_path), "int8", reference("multi_label", logits, targets, "micro_f1")
    )
    assert card.check is not None
    assert card.check.agreement == 0.96


@pytest.mark.parametrize(("off", "reason"), [(0.09, None), (0.12, "it agrees with torch on 0.0% of rows")])
def test_a_score_agrees_if_it_is_near(tmp_path: Path, off: float, reason: str | None) -> None:
    scores = np.linspace(0, 5, ROWS, dtype=np.float32)[:, None]
    moved = scores + np.float32(off * scores.std())
    card = check(
        file_that_answers(moved, tmp_path), "int8", reference("regression", scores, scores, "pearson")
    )
    assert card.kept is (reason is None)
    assert reason is None or str(card.reason).startswith(reason)


@pytest.mark.parametrize(("off", "kept"), [(0.01, True), (0.03, False)])
def test_of_rmse_less_is_better_in_units_of_the_labels(tmp_path: Path, off: float, kept: bool) -> None:
    scores = np.linspace(0, 500, ROWS, dtype=np.float32)[:, None]
    path = file_that_answers(scores + np.float32(off * scores.std()), tmp_path)
    card = check(path, "int8", reference("regression", scores, scores, "rmse"))
    assert card.kept is kept
    assert kept or str(card.reason).startswith("rmse goes from 0 to")


@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_breaks_a_file(tmp_path: Path, variant: Variant, value: float) -> None:
    logits, classes = right_logits()
    broken = logits.copy()
    broken[50, 2] = value
    path = file_that_answers(broken, tmp_path)
    card = check(path, variant, reference("single_label", logits, classes, "accuracy"))
    assert not path.exists()
    assert (card.kept, card.reason, card.check) == (False, "an answer is NaN or infinite", None)
