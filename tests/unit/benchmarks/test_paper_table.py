"""The paper benchmark's arithmetic and what its table says, from cells made by hand."""

from pathlib import Path

import pytest

from benchmarks.paper import cells, estimate, summary, table
from benchmarks.paper.cells import Budget, Cell, Key, Machine
from benchmarks.paper.tasks import Benchmark
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.spec import DistilSpec

BUDGET = Budget(epochs=3, least_steps=100, batch_size=32, learning_rate=1e-4, layers=3, precision="auto")
TASK = Benchmark(
    name="movie",
    title="film-review sentences",
    data=DataSpec(files={"train": Path("train.jsonl"), "test": Path("test.jsonl")}),
    columns=(("test", "accuracy"),),
    max_length=64,
    counterpart="SST-2",
)


def cell(method: str, seed: int, accuracy: float, share: float = 1.0, rows: int = 4000) -> Cell:
    return Cell(
        key=Key(task="movie", share=share, method=method, seed=seed),
        budget=BUDGET,
        recipe=DistilSpec(),
        data={},
        teacher="MiniLM",
        train_rows=rows,
        added_rows=0,
        epochs=3,
        steps=375,
        best_step=250,
        validation={"accuracy": 0.8, "loss": 0.5},
        scores={"test": {"accuracy": accuracy, "loss": 0.5}},
        training_seconds=40.0,
        scoring_seconds=5.0,
        commit="0123456789ab",
        versions={"torch": "2"},
        machine=Machine(device="cpu", cores=2, threads=2),
    )


CELLS = [
    cell("teacher", 0, 0.88),
    *(cell("FT", seed, accuracy) for seed, accuracy in enumerate((0.80, 0.82, 0.84))),
    *(cell("KD", seed, accuracy) for seed, accuracy in enumerate((0.81, 0.84, 0.84))),
    *(cell("SM+TMKD", seed, accuracy) for seed, accuracy in ((2, 0.85), (0, 0.83))),
]


def line(method: str, share: float = 1.0) -> summary.Line:
    (found,) = (one for one in summary.lines(TASK, CELLS) if (one.method, one.share) == (method, share))
    return found


def test_a_line_has_the_mean_and_the_sample_deviation_over_seeds() -> None:
    assert line("FT").seeds == (0, 1, 2)
    assert line("FT").scores[0].mean == pytest.approx(82)
    assert line("FT").scores[0].sd == pytest.approx(2)
    assert line("teacher").scores[0].sd is None


def test_differences_are_paired_by_seed_and_only_over_seeds_that_both_have() -> None:
    kd = line("KD").minus_ft
    assert kd is not None
    assert kd.values == pytest.approx((1, 2, 0))
    assert (kd.mean, kd.sd) == pytest.approx((1, 1))
    mixkd = line("SM+TMKD")
    assert mixkd.seeds == (0, 2)
    assert mixkd.minus_ft is not None
    assert mixkd.minus_ft.values == pytest.approx((3, 1))
    assert mixkd.minus_kd is not None
    assert mixkd.minus_kd.values == pytest.approx((2, 1))


def test_the_papers_number_stands_beside_its_counterpart_only() -> None:
    assert line("SM+TMKD").published == (88.99,)
    assert line("KD").published is None  # the paper's dev table has no such row
    assert summary.published("SST-2", 0.1, "FT") is None
    assert summary.published("QQP", 0.1, "SM+TMKD+BT") == (84.7,)
    assert summary.published(None, 1.0, "FT") is None


def test_every_published_row_has_a_number_for_every_task() -> None:
    for name, found in summary.PUBLISHED.items():
        if name != "source":
            assert {len(row) for row in found["rows"].values()} == {len(found["tasks"])}, name


def test_the_page_shows_what_was_measured_and_what_was_not() -> None:
    page = table.markdown([TASK], summary.lines(TASK, CELLS), CELLS)
    assert "| 100 % | 4,000 | FT | 82.00 ± 2.00 | 3 |  | -1.00 ± 1.00 | 87.16 |" in page
    assert "| 100 % | 4,000 | SM+TMKD | 84.00 ± 1.41 | 2 | +2.00 ± 1.41 | +1.50 ± 0.71 | 88.99 |" in page
    assert "| TMKD | not run |" in page
    assert "| SM+TMKD+BT | not run: no translation model |" in page
    assert "movie 100 %: 3 (375 steps)" in page
    assert "0123456789ab (9 cells)" in page


def test_the_summary_counts_seeds_and_lines_where_they_agree() -> None:
    page = table.markdown([TASK], summary.lines(TASK, CELLS), CELLS)
    assert (
        "| movie | 100 % | +1.00 ± 1.00 (2 of 3) | +2.00 ± 1.41 (2 of 2) |  | +1.50 ± 0.71 (2 of 2) |" in page
    )
    assert "| lines in which all (of several) seeds are |  | 1 not alike | 1 better |  | 1 better |" in page


def test_an_error_is_not_shown_in_hundredths() -> None:
    assert summary.shown("rmse", 0.7) == 0.7
    assert summary.shown("pearson", 0.7) == 70


@pytest.mark.parametrize(("rows", "epochs"), [(4000, 3), (400, 8), (40, 50), (2, 100)])
def test_few_rows_are_gone_through_more_often(rows: int, epochs: int) -> None:
    assert BUDGET.epochs_for(rows) == epochs


def test_a_finished_cell_is_found_again_and_another_budget_is_refused(tmp_path: Path) -> None:
    done = cell("FT", 0, 0.8)
    assert cells.kept(tmp_path, done.key, BUDGET) is None
    cells.keep(tmp_path, done)
    assert cells.kept(tmp_path, done.key, BUDGET) == done
    assert list(cells.read_cells(tmp_path)) == [done]
    with pytest.raises(cells.OtherSettingsError, match="other settings"):
        cells.kept(tmp_path, done.key, BUDGET.model_copy(update={"epochs": 4}))


def test_no_two_cells_share_a_file() -> None:
    keys = [
        Key(task=task, share=share, method=method, seed=seed)
        for task in ("trec6", "trec50")
        for share in (1.0, 0.1, 0.01)
        for method in ("teacher", "FT", "FT+BT", "TMKD", "SM+TMKD", "SM+TMKD+BT")
        for seed in (0, 1)
    ]
    assert len({key.file for key in keys}) == len(keys)


def test_an_estimate_counts_steps_evaluations_and_the_final_scoring() -> None:
    trial = cell("FT", 0, 0.8).model_copy(
        update={"steps": 10, "training_seconds": 4.0, "scoring_seconds": 10.0}
    )
    rows = {"train": 4000, "validation": 200, "test": 1000}  # so that an evaluation of validation takes 2 s
    seconds = estimate.cell_seconds(trial, BUDGET, rows, 1.0)
    assert seconds == pytest.approx(3 * 125 * 0.2 + 3 * 2 + 10)
