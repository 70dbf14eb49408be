"""Lines over steps as SVG text: it stands by itself, in light and in dark, and has no chance in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 56, 52
_LEGEND_LINE, _NOTE_LINE = 20, 14
_LETTER = 6.7  # about as wide as one of the legend is

# Each in light and in dark; told apart by the colour-blind as well, on either ground.
_COLOURS = {
    "blue": ("#2a78d6", "#3987e5"),
    "aqua": ("#1baf7a", "#199e70"),
    "yellow": ("#eda100", "#c98500"),
    "magenta": ("#e87ba4", "#d55181"),
    "violet": ("#4a3aa7", "#9085e9"),
    "red": ("#e34948", "#e66767"),
}
_INKS = {  # what is not a line: class, property, light, dark
    "ground": ("fill", "#fcfcfb", "#1a1a19"),
    "ring": ("stroke", "#fcfcfb", "#1a1a19"),
    "text": ("fill", "#0b0b0b", "#ffffff"),
    "label": ("fill", "#52514e", "#c3c2b7"),
    "grid": ("stroke", "#e1e0d9", "#2c2c2a"),
    "axis": ("stroke", "#898781", "#898781"),
}


@dataclass(frozen=True)
class Line:
    """One curve: a value at each of some steps; or, with a single step of None, the same value all along."""

    name: str
    points: Sequence[tuple[int | None, float]]
    colour: str  # of _COLOURS
    dash: str = ""
    dots: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture of some lines over the steps."""

    title: str
    meaning: str  # for who cannot see it
    lines: Sequence[Line]
    kept_step: int | None = None  # marked: the weights that were kept
    logarithmic: bool = False


def draw(figure: Figure) -> str:
    """The figure as an SVG document.

    Its lines have at least one step between them; of a logarithmic one only what is above 0 is shown.
    """
    legend, rows = _legend(figure.lines)
    scale = _Scale.of(figure, _TOP + _LEGEND_LINE * rows + _NOTE_LINE)
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    box, labelled = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"', 'role="img" aria-labelledby="title meaning"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {labelled} {font}>',
        f'<title id="title">{escape(figure.title)}</title>',
        f'<desc id="meaning">{escape(figure.meaning)}</desc>',
        _style(),
        f'<rect class="ground" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>',
        _text(_LEFT, 34, figure.title, 'class="text" font-size="16" font-weight="600"'),
        *legend,
        *_axes(scale),
        *_kept(figure.kept_step, scale),
        *(mark for line in figure.lines for mark in _curve(line, scale)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


# -- from numbers to places --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """Where a step and a value lie in the picture."""

    last_step: int
    low: float
    high: float
    top: float
    logarithmic: bool

    @classmethod
    def of(cls, figure: Figure, top: float) -> "_Scale":
        steps = [step for line in figure.lines for step, _ in line.points if step is not None]
        values = [value for line in figure.lines for _, value in line.points]
        if figure.logarithmic:
            values = [value for value in values if value > 0] or [1.0]
            return cls(max(steps), min(values) / 1.1, max(values) * 1.1, top, logarithmic=True)
        space = (max(values) - min(values)) * 0.08 or abs(values[0]) * 0.05 or 1.0
        return cls(max(steps), min(values) - space, max(values) + space, top, logarithmic=False)

    def x(self, step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / self.last_step

    def y(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.top + (_HEIGHT - _BOTTOM - self.top) * (high - at) / (high - low)

    def shows(self, value: float) -> bool:
        return value > 0 or not self.logarithmic


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two others: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    first = math.ceil(low / gap - 1e-9)
    return [number * gap for number in range(first, math.floor(high / gap + 1e-9) + 1)]


def logarithmic_ticks(low: float, high: float, about: int) -> list[float]:
    """1, 2 and 5 times each power of ten; only the powers where there would be too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = math.log10(high / low) > 3
    found = [times * 10.0**power for power in powers for times in ((1,) if wide else (1, 2, 5))]
    inside = [value for value in found if low <= value <= high]
    return inside if len(inside) >= 2 else ticks(low, high, about)


# -- the parts of the picture ------------------------------------------------------------------------------


def _style() -> str:
    lines = {f".{name}": ("stroke", *colours) for name, colours in _COLOURS.items()}
    dots = {f".{name}-dot": ("fill", *colours) for name, colours in _COLOURS.items()}
    inks = {f".{name}": ink for name, ink in _INKS.items()}
    rules = {**inks, **lines, **dots}
    light = " ".join(f"{name}{{{what}:{colour}}}" for name, (what, colour, _) in rules.items())
    dark = " ".join(f"{name}{{{what}:{colour}}}" for name, (what, _, colour) in rules.items())
    line = ".line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
    return f"<style>\n{line} {light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n</style>"


def _legend(lines: Sequence[Line]) -> tuple[list[str], int]:
    """The names of the lines beside a piece of each, and how many rows of the picture they take."""
    parts: list[str] = []
    x, row = float(_LEFT), 0
    for line in lines:
        width = 30 + _LETTER * len(line.name) + 18
        if x > _LEFT and x + width > _WIDTH - _RIGHT:
            x, row = float(_LEFT), row + 1
        y = _TOP + _LEGEND_LINE * row
        parts += [*_stroke(line, [(x, y), (x + 22, y)], [(x + 11, y)]), _text(x + 30, y + 4, line.name)]
        x += width
    return parts, row + 1


def _axes(scale: _Scale) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    heights = logarithmic_ticks if scale.logarithmic else ticks
    parts = []
    for value in heights(scale.low, scale.high, 5):
        y = scale.y(value)
        parts += [
            f'<path class="grid" d="M{_LEFT},{y:.1f}H{right}"/>',
            _text(_LEFT - 10, y + 4, number(value), anchor="end"),
        ]
    for step in ticks(0, scale.last_step, 6):
        if step.is_integer():
            x = scale.x(step)
            parts += [
                f'<path class="axis" d="M{x:.1f},{bottom}v5"/>',
                _text(x, bottom + 20, f"{step:,.0f}", anchor="middle"),
            ]
    return [
        *parts,
        f'<path class="axis" d="M{_LEFT},{bottom}H{right}"/>',
        _text((_LEFT + right) / 2, _HEIGHT - 12, "step", anchor="middle"),
    ]


def _kept(step: int | None, scale: _Scale) -> list[str]:
    """A mark at the step whose weights were kept."""
    if step is None:
        return []
    x = scale.x(step)
    anchor = "end" if x > _WIDTH * 0.9 else "start" if x < _WIDTH * 0.1 + _LEFT else "middle"
    return [
        f'<path class="axis" d="M{x:.1f},{scale.top:.1f}V{_HEIGHT - _BOTTOM}" stroke-dasharray="2 3"/>',
        _text(x, scale.top - 6, f"kept: step {step:,}", anchor=anchor),
    ]


def _curve(line: Line, scale: _Scale) -> list[str]:
    places = [
        (scale.x(end), scale.y(value))
        for step, value in line.points
        if scale.shows(value)
        for end in ([step] if step is not None else [0, scale.last_step])
    ]
    return _stroke(line, places, places)


def _stroke(
    line: Line, places: Sequence[tuple[float, float]], dots: Sequence[tuple[float, float]]
) -> list[str]:
    """A line as it is drawn through places, and its dots."""
    through = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    drawn = [f'<polyline class="line {line.colour}" points="{through}"{dash}/>']
    if line.dots:
        drawn += [
            f'<circle class="ring {line.colour}-dot" cx="{x:.1f}" cy="{y:.1f}" r="4" stroke-width="1.5"/>'
            for x, y in dots
        ]
    return drawn


def _text(x: float, y: float, text: str, looks: str = 'class="label"', anchor: str = "start") -> str:
    return f'<text {looks} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def number(value: float) -> str:
    """As it stands at an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
