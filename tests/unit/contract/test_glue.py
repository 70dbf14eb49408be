"""GLUE's tasks: small files written as the original and the hub's are."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mixkd.contract.glue import GLUE, glue_data
from mixkd.contract.problems import RefusedError
from mixkd.contract.rows import Row, check_dataset, read_rows

Pairs = list[tuple[str, str | None, str | float]]

MNLI_COLUMNS = "\t".join([
    "index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse",
    "sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label",
])  # fmt: skip
# The columns of the original files, and one row of each label in the order of the model's outputs.
ORIGINAL: dict[str, tuple[str, list[str]]] = {
    "cola": ("", ["gj04\t0\t*\tThe car honked down.\n", 'gj04\t1\t\tShe said "go".\n']),
    "sst2": ("sentence\tlabel\n", ["a bore \t0\n", 'a "gem \t1\n']),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        ['0\t1\t2\t"It rains, he said.\tShe left.\n', "1\t3\t4\tShe left.\tShe went.\n"],
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
        ["7\t1\t2\tWho?\tWhere?\t0\n", "8\t3\t4\tHow old?\tWhich age?\t1\n"],
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
        [
            "0\tg\tf\t2012\t1\ta\tb\tA dog.\tA car.\t0.200\n",
            "1\tg\tf\t2012\t2\ta\tb\tA dog.\tOne dog.\t5.000\n",
        ],
    ),
    "mnli": (
        f"{MNLI_COLUMNS}\n",
        [
            f"{n}\t1\t1e\tfiction\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tIt rains.\tWet {n}.\tneutral\t{label}\n"
            for n, label in enumerate(("entailment", "neutral", "contradiction"))
        ],
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n",
        ["0\tWhen?\tIn 1900.\tentailment\n", "1\tWho?\tIn 1900.\tnot_entailment\n"],
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n",
        ["0\tIt rains.\tIt is wet.\tentailment\n", "1\tIt rains.\tIt snows.\tnot_entailment\n"],
    ),
    "wnli": (
        "index\tsentence1\tsentence2\tlabel\n",
        ["0\tIt fell as it was loose.\tThe wall was.\t0\n", "1\tIt fell.\tThe cup fell.\t1\n"],
    ),
}
READ: dict[str, Pairs] = {
    "cola": [("The car honked down.", None, "unacceptable"), ('She said "go".', None, "acceptable")],
    "sst2": [("a bore ", None, "negative"), ('a "gem ', None, "positive")],
    "mrpc": [
        ('"It rains, he said.', "She left.", "not_equivalent"),
        ("She left.", "She went.", "equivalent"),
    ],
    "qqp": [("Who?", "Where?", "not_duplicate"), ("How old?", "Which age?", "duplicate")],
    "stsb": [("A dog.", "A car.", 0.2), ("A dog.", "One dog.", 5.0)],
    "mnli": [
        ("It rains.", "Wet 0.", "entailment"),
        ("It rains.", "Wet 1.", "neutral"),
        ("It rains.", "Wet 2.", "contradiction"),
    ],
    "qnli": [("When?", "In 1900.", "entailment"), ("Who?", "In 1900.", "not_entailment")],
    "rte": [("It rains.", "It is wet.", "entailment"), ("It rains.", "It snows.", "not_entailment")],
    "wnli": [
        ("It fell as it was loose.", "The wall was.", "not_entailment"),
        ("It fell.", "The cup fell.", "entailment"),
    ],
}
METRICS = {
    "cola": ("matthews",),
    "mrpc": ("f1", "accuracy"),
    "qqp": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
}
HUB_TEXTS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
}


def write_original(task: str, folder: Path) -> None:
    header, rows = ORIGINAL[task]
    folder.mkdir(parents=True, exist_ok=True)
    names = ("train", "dev_matched", "dev_mismatched") if task == "mnli" else ("train", "dev")
    for name in names:
        (folder / f"{name}.tsv").write_text(header + "".join(rows), encoding="utf-8")
    (folder / "test.tsv").write_text("index\tsentence\n0\tno label\n")


def write_hub(task: str, folder: Path) -> None:
    """Numbers for labels, as the hub's `ClassLabel` stores them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("_matched", "_mismatched") if task == "mnli" else ("",)
    columns = HUB_TEXTS.get(task, ("sentence1", "sentence2"))
    table = {column: [row[number] for row in READ[task]] for number, column in enumerate(columns)}
    labels = (
        pa.array([row[2] for row in READ[task]], pa.float32())
        if task == "stsb"
        else pa.array(range(len(READ[task])), pa.int64())
    )
    table |= {"label": labels, "idx": pa.array(range(len(READ[task])), pa.int32())}
    for name in ("train", *(f"validation{end}" for end in names), *(f"test{end}" for end in names)):
        parquet.write_table(pa.table(table), folder / f"{name}-00000-of-00001.parquet")


def content(rows: list[Row]) -> Pairs:
    for row in rows:
        assert isinstance(row.label, str | float)
    return [(row.text, row.text_pair, row.label) for row in rows]  # type: ignore[misc]  # just asserted


@pytest.mark.parametrize("write", [write_original, write_hub])
@pytest.mark.parametrize("task", GLUE)
def test_every_task_is_read_alike_from_both_layouts(tmp_path: Path, task: str, write: object) -> None:
    assert callable(write)
    write(task, tmp_path)
    data = glue_data(task, tmp_path)
    mismatched = ["validation_mismatched"] if task == "mnli" else []
    assert list(data.files) == ["train", "validation", *mismatched]
    for name, path in data.files.items():
        rows = content(list(read_rows(path, data, name)))
        assert [row[:2] for row in rows] == [row[:2] for row in READ[task]]
        expected = [row[2] for row in READ[task]]
        assert [row[2] for row in rows] == (pytest.approx(expected) if task == "stsb" else expected)
    assert data.scored_by == METRICS.get(task, ("accuracy",))

    report = check_dataset(data)
    assert report.labels == ([] if task == "stsb" else [row[2] for row in READ[task]])
    assert report.skipped_rows == {}
    assert report.splits["train"].rows == len(READ[task])


def test_the_sets_of_mnli_are_the_matched_and_the_mismatched_one(tmp_path: Path) -> None:
    write_original("mnli", tmp_path)
    files = glue_data("mnli", tmp_path).files
    assert files["validation"].name == "dev_matched.tsv"
    assert files["validation_mismatched"].name == "dev_mismatched.tsv"
    write_hub("mnli", tmp_path / "hub")
    files = glue_data("mnli", tmp_path / "hub").files
    assert files["validation"].name == "validation_matched-00000-of-00001.parquet"
    assert files["validation_mismatched"].name == "validation_mismatched-00000-of-00001.parquet"


@pytest.mark.parametrize(("write", "within"), [(write_original, "SST-2"), (write_hub, "sst2")])
def test_a_folder_of_the_whole_benchmark_will_do(tmp_path: Path, write: object, within: str) -> None:
    assert callable(write)
    write("sst2", tmp_path / within)
    assert glue_data("sst2", tmp_path).files["train"].parent == tmp_path / within


def test_mrpc_as_its_makers_publish_it_has_no_validation_set(tmp_path: Path) -> None:
    header, rows = ORIGINAL["mrpc"]
    (tmp_path / "msr_paraphrase_train.txt").write_text(header + "".join(rows), encoding="utf-8")
    (tmp_path / "msr_paraphrase_test.txt").write_text(header + "".join(rows), encoding="utf-8")
    data = glue_data("mrpc", tmp_path)
    assert list(data.files) == ["train"]
    assert content(list(read_rows(data.files["train"], data))) == READ["mrpc"]
    write_original("mrpc", tmp_path)  # GLUE's own split of the same rows wins
    assert list(glue_data("mrpc", tmp_path).files) == ["train", "validation"]


def test_torn_and_empty_questions_are_left_out_and_counted(tmp_path: Path) -> None:
    """As train.tsv of QQP has them: a line end within a question, and two questions without a text."""
    write_original("qqp", tmp_path)
    header, rows = ORIGINAL["qqp"]
    torn = '9\t5\t6\t"How many\n"\tHow much?\t0\n'
    empty = "10\t7\t8\tHow can I develop android app?\t\t0\n"
    (tmp_path / "train.tsv").write_text(header + rows[0] + torn + rows[1] * 40 + empty)
    data = glue_data("qqp", tmp_path)
    report = check_dataset(data)
    assert report.splits["train"].rows == 41
    assert report.skipped_rows == {"train": 3}
    assert [row.line for row in read_rows(data.files["train"], data)] == [2, *range(5, 45)]


def test_many_rows_that_cannot_be_used_are_no_broken_lines(tmp_path: Path) -> None:
    write_original("sst2", tmp_path)
    with (tmp_path / "train.tsv").open("a") as file:
        file.write("a mild one \t2\n")
    with pytest.raises(RefusedError, match=r"files\.train: line 4: 'label' is '2'.*'0', '1'"):
        check_dataset(glue_data("sst2", tmp_path))


def test_an_unknown_task_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        glue_data("sst-2", tmp_path)
    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == ("data.glue", "sst-2")
    assert problem.remedy is not None
    assert all(task in problem.remedy for task in GLUE)


def test_a_folder_without_the_files_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").touch()
    with pytest.raises(RefusedError) as caught:
        glue_data("mnli", tmp_path)
    (problem,) = caught.value.problems
    assert problem.field == "data.folder"
    for name in ("train.tsv", "dev_matched.tsv", "validation_mismatched-00000-of-00001.parquet", "MNLI"):
        assert name in problem.problem
