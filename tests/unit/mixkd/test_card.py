"""The model card: metadata that the hub reads, Markdown that no label breaks, numbers as in the report."""

from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from mixkd.augment.card import AugmentCard
from mixkd.data import SetsUsed
from mixkd.export.onnx_check import OnnxCard
from mixkd.printable import printable
from mixkd.report.card import curves_of, model_card
from mixkd.report.markdown import plain
from mixkd.report.schema import Report
from tests.support.report_card import SETS, STUDENT, TEACHER, TRUTH, make_report, outcome, points

Build = Callable[..., Report]
HOSTILE = (
    "a | b",
    "two\nlines\r\n\r\n# and a heading",
    "<script>alert('x')</script>",
    "quotes \" and ' and `ticks`",
    "*stars* _lines_ [a](b) ![c](d) $e$ ~~f~~ \\| \\",
    "--- &amp; ---",
    "\x00\x1b[31m\u2028",
    "\u202egnorw\u202c",
    "{{ jinja }} {% raw %}",
)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return partial(make_report, tmp_path)


class Cells(HTMLParser):
    """The texts of all cells of a page, and the tags that were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data


def read(text: str) -> Cells:
    """A card as a browser gets it."""
    page = Cells()
    page.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))
    return page


def test_the_hub_reads_its_metadata(build: Build) -> None:
    card = ModelCard(model_card(build(), []))
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert "license" not in data.to_dict()
    results = {(each.dataset_name, each.metric_type): each.metric_value for each in data.eval_results or []}
    assert results["test", "accuracy"] == 0.5
    assert {name for name, _ in results} == {"validation", "test"}


def test_the_results_have_intervals_and_the_classes_are_folded(build: Build) -> None:
    report = build()
    text = model_card(report, ["distil-loss.svg"])
    page = read(text)
    scores = report.sets["test"].student.scores["accuracy"]
    row = next(cells for cells in page.rows if cells[:2] == ["test", "accuracy"])
    assert row[3] == f"0.5000 [{scores.low:.4f}, {scores.high:.4f}]"
    assert row[4].startswith("-0.2500 [")
    red = next(cells for cells in page.rows if cells and cells[0] == "red")
    assert red == ["red", "2", "1.0000", "1.0000", "1.0000", "0.5000", "1.0000", "0.6667"]
    assert {"details", "summary", "img"} <= page.tags
    assert "curves/distil-loss.svg" in text


def test_every_table_is_a_table(build: Build) -> None:
    """Each row has as many cells as its head: a stray | would make one more."""
    report = build(
        taught=outcome(notes=("halved the | batch",), stopped="early"),
        baselines={"kd": outcome()},
        answers_by_set={name: {"teacher": TEACHER, "student": STUDENT, "kd": TRUTH} for name in SETS},
        augmented=[
            AugmentCard(
                kind="unlabelled", made=3, dropped={}, notes=(), settings={}, made_from={}, key="k" * 64
            )
        ],
    )
    text = model_card(report, [])
    lines = [line for line in text.split("\n") if line.startswith("|")]
    assert len(read(text).rows) == len(lines) - sum(set(line) <= set("|-: ") for line in lines)
    assert "halved the | batch" in MarkdownIt("commonmark").render(text)
    assert "early: no better evaluation came" in text


@pytest.mark.parametrize("label", HOSTILE)
def test_a_label_is_text_whatever_is_in_it(build: Build, label: str) -> None:
    text = model_card(build(labels=["red", label, "blue"]), [])
    page = read(text)
    assert "script" not in page.tags
    assert not set("\x00\x1b\u202e") & set(text)
    shown = " ".join(printable(" ".join(label.splitlines())).split())
    assert shown in [" ".join(cells[0].split()) for cells in page.rows if cells]
    ModelCard(text)


def test_an_onnx_file_that_was_left_out_says_why(build: Build) -> None:
    left_out = OnnxCard(variant="int8", kept=False, reason="it answers | otherwise")
    page = read(model_card(build(onnx=[left_out]), []))
    assert ["int8", "left out: it answers | otherwise", "", "", ""] in page.rows


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
        ("\x9b31m", "\\u009b31m"),
        ("abc\u202egpj\u2066", "abc\\u202egpj\\u2066"),
        ("half \udc80", "half \\udc80"),
        ("naïve 日本語 می\u200cخواهم 👩\u200d🔬\t\u00a0", "naïve 日本語 می\u200cخواهم 👩\u200d🔬\t\u00a0"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_plain_text_is_one_line() -> None:
    assert "\n" not in plain("a\nb\r\x0b\x0c\x1c\x85\u2028c")
    assert plain("a b") == "a b"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, 'print(answer("a text"))'),
        ({"columns": {"text_pair": "other"}}, '"text_pair": "and another"'),
    ],
)
def test_the_snippet_is_of_the_task(build: Build, data: dict[str, object], expected: str) -> None:
    text = model_card(build(data=data), [])
    assert expected in text
    snippet = text.partition("```python\n")[2].partition("```")[0]
    compile(snippet, "README.md", "exec")


def test_several_labels_and_scores_have_cards_too(build: Build) -> None:
    labels = dict.fromkeys(SETS, (np.eye(3)[[0, 1, 2, 0]] + np.eye(3)[[0, 0, 2, 1]] > 0).astype(float))
    text = model_card(build(data={"task": "multi_label"}, targets_by_set=labels), [])
    assert "top_k=None" in text
    truth = np.array([[1.0], [2.0], [4.0], [5.0]])
    regression = build(
        data={"task": "regression"}, labels=["score"], targets_by_set=dict.fromkeys(SETS, truth),
        answers_by_set={name: {"teacher": truth + 0.5, "student": truth[::-1]} for name in SETS},
    )  # fmt: skip
    text = model_card(regression, [])
    assert "<details>" not in text
    agreed = next(row for row in read(text).rows if row[-1] == "-1.0000" and len(row) == 7)
    assert agreed[4:6] == ["", ""]  # a score does not say how sure it is


def test_numbers_of_the_validation_rows_are_said_to_flatter(build: Build) -> None:
    used = SetsUsed(
        rows={"train": 4, "validation": 4}, train_of=40, validation_from="train", judged_on="validation"
    )
    text = model_card(build(used=used), [])
    assert "which flatters" in text
    assert "set aside from the training rows" in text
    assert "Of 40 training rows" in text
    assert "which flatters" not in model_card(build(), [])


def test_the_curves_are_those_of_the_trainings_that_were(build: Build) -> None:
    assert set(curves_of(build())) == {"distil-loss.svg", "distil-validation.svg"}
    taught = build(taught=outcome(), curves=points("teach") + points("distil"))
    drawn = curves_of(taught)
    assert set(drawn) == {f"{p}-{w}.svg" for p in ("teach", "distil") for w in ("loss", "validation")}
    assert "teacher&#x27;s accuracy" in drawn["distil-validation.svg"]
    assert "teacher&#x27;s accuracy" not in drawn["teach-validation.svg"]
