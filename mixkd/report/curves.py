"""Learning curves: what was logged while a model was trained, as pictures."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from mixkd.contract.strict import Strict
from mixkd.report.svg import Figure, Line, number

_TERMS = {  # as they are logged: what they are, and their colour, the same in every picture
    "mle": ("L_MLE, real rows", "aqua"),
    "kd": ("L_KD, real rows and teacher", "magenta"),
    "sm": ("L_SM, mixed rows", "yellow"),
    "tmkd": ("L_TMKD, mixed rows and teacher", "violet"),
}
_METRICS = ("blue", "aqua", "yellow")
_BASELINES = {"finetune": "red", "kd": "magenta", "tmkd": "violet"}


class Point(Strict):
    """Numbers that were logged at a step."""

    phase: str = Field(description="`teach`, `distil`, or the name of a baseline")
    step: int = Field(description="of this training, counted from 1")
    values: dict[str, float]


def series(points: Sequence[Point], phase: str, value: str) -> list[tuple[int | None, float]]:
    """A logged value of a phase over its steps."""
    return [(p.step, p.values[value]) for p in points if p.phase == phase and value in p.values]


def loss_figure(points: Sequence[Point], phase: str, title: str, kept_step: int | None) -> Figure | None:
    """The loss of a training, its terms, and that of the validation rows; None: nothing was logged."""
    terms = [
        Line(name, found, colour)
        for term, (name, colour) in _TERMS.items()
        if (found := series(points, phase, term))
    ]
    lines = []
    if found := series(points, phase, "loss"):
        lines = [Line("the loss that is minimised", found, "blue"), *terms] if len(terms) > 1 else terms
        lines = lines or [Line("the loss that is minimised", found, "blue")]
    if found := series(points, phase, "validation_loss"):
        lines.append(Line("validation rows and their labels", found, "red", dots=True))
    if not lines:
        return None
    return Figure(title, _told(lines), lines, kept_step, logarithmic=True)


def score_figure(
    points: Sequence[Point],
    phase: str,
    title: str,
    kept_step: int | None,
    *,
    metrics: Sequence[str],
    teacher: Mapping[str, float],
) -> Figure | None:
    """The validation scores of a training; None: nothing was logged.

    Args:
        metrics: what is shown; the first one also of the baselines that were logged.
        teacher: its scores, where they are to be shown.
    """
    lines = []
    for metric, colour in zip(metrics, _METRICS, strict=False):
        name = metric_name(metric)
        if found := series(points, phase, f"validation_{metric}"):
            lines.append(Line(name, found, colour, dots=True))
            if metric in teacher:
                lines.append(Line(f"teacher's {name}", [(None, teacher[metric])], colour, dash="6 4"))
    if not lines:
        return None
    for baseline, colour in _BASELINES.items() if phase == "distil" else ():
        if found := series(points, baseline, f"validation_{metrics[0]}"):
            name = f"{lines[0].name}, baseline {baseline}"
            lines.append(Line(name, found, colour, dash="1 4", dots=True))
    return Figure(title, _told(lines), lines, kept_step)


def metric_name(metric: str) -> str:
    """As people write it: macro-F1, exact match."""
    return metric.replace("_f1", "-F1").replace("f1", "F1").replace("_", " ")


def _told(lines: Sequence[Line]) -> str:
    """The picture in words."""
    words = []
    for line in lines:
        (_, first), (step, last) = line.points[0], line.points[-1]
        change = number(last) if step is None else f"from {number(first)} to {number(last)}"
        words.append(f"{line.name}: {change}")
    return "; ".join(words) + "."
