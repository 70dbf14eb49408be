"""Learning curves: XML that parses, lines where the numbers are, and what a picture of nothing is."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkd.report.curves import Point, loss_figure, score_figure
from mixkd.report.svg import Figure, Line, draw, logarithmic_ticks, ticks
from tests.support.report_card import points

SVG = "{http://www.w3.org/2000/svg}"


def parsed(figure: Figure | None) -> ElementTree.Element:
    assert figure is not None
    return ElementTree.fromstring(draw(figure))


def places(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def curves(picture: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The places of each curve, without the pieces in the legend, which are 22 wide."""
    found = [places(line) for line in picture.iter(f"{SVG}polyline")]
    return [each for each in found if len(each) != 2 or not math.isclose(each[1][0] - each[0][0], 22)]


def words(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def scores(**changes: object) -> Figure | None:
    given = {"metrics": ["accuracy", "macro_f1"], "teacher": {"accuracy": 0.9}, **changes}
    return score_figure(points("distil"), "distil", "Scores", 10, **given)  # type: ignore[arg-type]


def test_the_scores_are_a_line_each_and_the_teachers_is_level() -> None:
    picture = parsed(scores())
    accuracy, teacher, macro_f1 = curves(picture)
    assert [x for x, _ in accuracy] == [x for x, _ in macro_f1]
    assert [y for _, y in accuracy] == sorted(
        (y for _, y in accuracy), reverse=True
    )  # rising: y grows downwards
    assert teacher[0][1] == teacher[1][1]
    assert {"accuracy", "teacher's accuracy", "macro-F1", "kept: step 10", "step"} <= set(words(picture))


def test_a_value_lies_where_its_axis_says() -> None:
    """0.5 lies half way between the lines of 0.4 and 0.6, and step 10 in the middle of 20."""
    line = Line("accuracy", [(1, 0.4), (10, 0.5), (20, 0.6)], "blue")
    picture = parsed(Figure("Scores", "", [line]))
    low, middle, high = curves(picture)[0]
    assert middle[1] == pytest.approx((low[1] + high[1]) / 2, abs=0.1)
    labels = {text.text: float(text.attrib["y"]) - 4 for text in picture.iter(f"{SVG}text")}
    assert labels["0.4"] == pytest.approx(low[1], abs=0.1)
    assert labels["0.6"] == pytest.approx(high[1], abs=0.1)
    steps = {text.text: float(text.attrib["x"]) for text in picture.iter(f"{SVG}text")}
    assert steps["10"] == pytest.approx(middle[0], abs=0.1)


def test_baselines_are_beside_the_student_and_not_beside_the_teacher() -> None:
    logged = points("distil") + points("teach") + points("kd")
    of_student = score_figure(logged, "distil", "", None, metrics=["accuracy"], teacher={})
    of_teacher = score_figure(logged, "teach", "", None, metrics=["accuracy"], teacher={})
    assert [line.name for line in (of_student or Figure("", "", [])).lines] == [
        "accuracy",
        "accuracy, baseline kd",
    ]
    assert [line.name for line in (of_teacher or Figure("", "", [])).lines] == ["accuracy"]


def test_the_loss_is_shown_with_its_terms_and_without_repeating_a_single_one() -> None:
    both = loss_figure(points("distil"), "distil", "Losses", None)
    assert both is not None
    assert [line.name for line in both.lines] == [
        "the loss that is minimised",
        "L_MLE, real rows",
        "L_SM, mixed rows",
        "validation rows and their labels",
    ]
    single = [Point(phase="teach", step=1, values={"loss": 1.0, "mle": 1.0})]
    only = loss_figure(single, "teach", "Losses", None)
    assert only is not None
    assert [line.name for line in only.lines] == ["L_MLE, real rows"]


def test_nothing_logged_is_no_picture() -> None:
    assert loss_figure([], "distil", "", None) is None
    assert score_figure([], "distil", "", None, metrics=["accuracy"], teacher={"accuracy": 1.0}) is None


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1e-9, 1e9], [1.0], [-1.0, 1.0]])
@pytest.mark.parametrize("logarithmic", [True, False])
def test_whatever_the_numbers_every_place_is_in_the_picture(values: list[float], logarithmic: bool) -> None:
    line = Line("a", list(enumerate(values, start=1)), "blue", dots=True)
    picture = parsed(Figure("", "", [line], kept_step=1, logarithmic=logarithmic))
    for found in curves(picture):
        assert all(0 <= x <= 760 and 0 <= y <= 420 for x, y in found)
    assert any(re.fullmatch(r"-?[\d.,e+-]+", word) for word in words(picture))


def test_it_has_a_name_for_who_cannot_see_it_and_two_grounds() -> None:
    text = draw(scores() or Figure("", "", []))
    picture = ElementTree.fromstring(text)
    names = {each.attrib["id"]: each.text for each in picture if "id" in each.attrib}
    assert names["title"] == "Scores"
    assert "accuracy: from 0.25 to 1" in (names["meaning"] or "")
    assert "prefers-color-scheme: dark" in text
    assert draw(scores() or Figure("", "", [])) == text


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
def test_no_name_breaks_the_document(name: str) -> None:
    line = Line(name, [(1, 1.0), (2, 2.0)], "blue")
    picture = parsed(Figure(name + "<script>\"'&]]>", name, [line]))
    assert name in words(picture) or not name
    assert picture.find(f"{SVG}title").text == name + "<script>\"'&]]>"  # type: ignore[union-attr]
    assert not list(picture.iter(f"{SVG}script"))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_inside_and_about_as_many_as_asked(low: float, width: float) -> None:
    found = ticks(low, low + width, 5)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in found)


@given(st.floats(1e-6, 1e6), st.floats(1.3, 1e9))
def test_logarithmic_ticks_are_inside(low: float, times: float) -> None:
    found = logarithmic_ticks(low, low * times, 5)
    assert 1 <= len(found) <= 16
    assert all(low * 0.999 <= value <= low * times * 1.001 for value in found)
