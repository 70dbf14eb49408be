"""What a person who waits for a job sees."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from mixkd_client import Event, Progress
from mixkd_client.progress import JobProgress, clock, numbers


def show(*updates: Event | Progress, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)
    with JobProgress(console) as progress:
        for update in updates:
            progress(update)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def event(seq: int, kind: str, **data: object) -> Event:
    return Event(seq=seq, at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), type=kind, data=data)


STORY = (
    event(1, "queued"),
    event(2, "claimed", attempt=1),
    event(3, "phase", phase="teach"),
    Progress(phase="teach", step=3, steps=9, loss=0.5, examples_per_second=120, seconds_left=65),
    event(4, "phase", phase="distil"),
    event(5, "succeeded"),
)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_story_is_told_with_and_without_a_terminal(terminal: bool) -> None:
    text = show(*STORY, terminal=terminal)
    told = [text.find(word) for word in ("queued", "claimed", "teach", "distil", "succeeded")]
    assert -1 not in told
    assert told == sorted(told)


def test_a_terminal_shows_all_numbers() -> None:
    assert "3/9  loss 0.500  120 examples/s  1:05 left" in show(*STORY, terminal=True)


def test_a_log_is_not_flooded() -> None:
    steps = [Progress(phase="teach", step=step, steps=500) for step in range(500)]
    assert len(show(*steps, terminal=False).splitlines()) < 5


def test_a_phase_without_steps_is_shown_by_its_name() -> None:
    assert numbers(Progress(phase="export")) == ""
    assert "export" in show(Progress(phase="export"), terminal=False)


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_time_left_reads_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
