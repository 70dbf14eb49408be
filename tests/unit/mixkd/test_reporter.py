"""What a supervisor is told, and how often."""

import math
import os

import pytest

from mixkd.contract.messages import Failed, Message, Metric, PhaseStarted, Progress, decode
from mixkd.contract.spec import RuntimeSpec
from mixkd.reporter import Reporter, to_pipe, to_terminal


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_comes_twice_a_second_at_most_and_always_at_the_end() -> None:
    sent: list[Message] = []
    clock = Clock()
    reporter = Reporter(sent.append, clock)
    reporter.phase("distil", steps=1000)
    for step in range(1, 1001):
        clock.now += 0.01
        reporter.step(step, loss=1.0, rows=8)
    progress = [message for message in sent if isinstance(message, Progress)]
    assert 20 <= len(progress) <= 22  # ten seconds
    assert progress[-1].step == progress[-1].steps == 1000
    assert progress[-1].examples_per_second == pytest.approx(800)
    assert progress[10].seconds_left == pytest.approx((1000 - progress[10].step) * 0.01)


def test_no_number_that_is_not_finite_is_sent(messages: list[Message], reporter: Reporter) -> None:
    reporter.phase("teach", steps=2)
    reporter.metric(1, {"loss": math.nan, "learning_rate": 0.1})
    reporter.metric(2, {"loss": math.inf})
    reporter.step(2, loss=math.nan, rows=4)
    metrics = [message for message in messages if isinstance(message, Metric)]
    assert [metric.values for metric in metrics] == [{"learning_rate": 0.1}]
    assert isinstance(messages[-1], Progress)
    assert messages[-1].loss is None


def test_messages_arrive_whole_through_a_pipe() -> None:
    read, write = os.pipe()
    send = to_pipe(write)
    sent: list[Message] = [PhaseStarted(phase="teach", steps=3), Failed(cause="internal", detail="line\nλ")]
    for message in sent:
        send(message)
    os.close(write)
    with os.fdopen(read, "rb") as lines:
        assert [decode(line) for line in lines] == sent


def test_a_reader_that_is_gone_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(SystemExit):
        to_pipe(write)(PhaseStarted(phase="teach"))
    os.close(write)
    assert "supervisor" in capsys.readouterr().err


def test_a_terminal_shows_any_metric_and_the_notes(capsys: pytest.CaptureFixture[str]) -> None:
    send = to_terminal()
    reporter = Reporter(send)
    reporter.resolved(RuntimeSpec(precision="bf16", attention="sdpa", threads=2))
    reporter.phase("distil", steps=8)
    reporter.metric(4, {"loss": 2.0, "validation_pearson": 0.91234, "validation_macro_f1": 0.5})
    reporter.note("memory ran out [sic]: 4 rows at once")
    reporter.checkpoint(4)
    reporter.done()
    shown = capsys.readouterr().err
    assert "bf16" in shown
    assert "step 4, validation pearson 0.9123, macro f1 0.5000" in shown
    assert "memory ran out [sic]: 4 rows at once" in shown


def test_the_pace_of_a_resumed_phase_counts_only_what_is_done_now() -> None:
    sent: list[Message] = []
    clock = Clock()
    reporter = Reporter(sent.append, clock)
    reporter.phase("distil", steps=1000)
    clock.now += 30  # reading the checkpoint
    reporter.goes_on(900)
    clock.now += 2
    reporter.step(910, loss=1.0, rows=80)
    last = sent[-1]
    assert isinstance(last, Progress)
    assert last.examples_per_second == pytest.approx(40)
    assert last.seconds_left == pytest.approx(18)  # 90 steps at 5 a second
