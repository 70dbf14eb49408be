"""The metrics of a run, kept beside its checkpoints, so that the curves of a resumed one have a beginning."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from mixkd.contract.messages import Message, Metric, decode, encode
from mixkd.contract.spec import Baseline
from mixkd.report.curves import Point


class Logbook:
    """A file of messages, one a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, message: Message) -> None:
        """Write a metric down; other messages are let go."""
        if isinstance(message, Metric):
            # A disk without room costs a point of a curve, not the training.
            with suppress(OSError):
                self._path.parent.mkdir(exist_ok=True)
                with self._path.open("ab") as file:
                    file.write(encode(message))

    def points(self, baselines: Sequence[Baseline], steps_each: int, ended: Mapping[str, int]) -> list[Point]:
        """What was logged, in order; of a step that was made twice, after a kill, what was logged last.

        Args:
            baselines: in the order in which they were trained, with so many steps each.
            ended: the steps of each training; what a killed attempt logged behind them never counted.
        """
        trainings: dict[str, dict[int, Point]] = {}
        for metric in self._metrics():
            phase, step = str(metric.phase), metric.step
            if phase == "baselines":
                phase, step = baselines[(step - 1) // steps_each], (step - 1) % steps_each + 1
            trainings.setdefault(phase, {})[step] = Point(phase=phase, step=step, values=metric.values)
        return [
            points[step]
            for name, points in trainings.items()
            for step in sorted(points)
            if step <= ended.get(name, 0)
        ]

    def _metrics(self) -> list[Metric]:
        if not self._path.exists():
            return []
        metrics = []
        for line in self._path.read_bytes().splitlines():
            try:
                message = decode(line)
            except ValidationError:  # cut short by a kill
                continue
            if isinstance(message, Metric):
                metrics.append(message)
        return metrics
