"""The metrics of a run, kept beside its checkpoints, so that the curves of a resumed one have a beginning."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

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
                with self._path.open("a+b") as file:
                    file.write(_end_of_torn_line(file) + encode(message))

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
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:  # there is none, or it is no file: curves without a beginning, rather than no student
            return []
        metrics = []
        for line in lines:
            try:
                message = decode(line)
            except ValidationError:  # cut short by a kill
                continue
            if isinstance(message, Metric):
                metrics.append(message)
        return metrics


def _end_of_torn_line(file: BinaryIO) -> bytes:
    """What has to come before a new line: a kill may have cut the last one short."""
    if not file.tell():
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"
