"""A training that is killed, at whatever point and however often, ends with the bits of one that is not."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from mixkd.batching import Part
from mixkd.contract.messages import Message, Metric, Note
from mixkd.contract.spec import LossSpec, MixupSpec, RuntimeSpec, TrainSpec
from mixkd.data import Encoded
from mixkd.objectives import Network, imitate
from mixkd.reporter import Reporter
from mixkd.training.control import Control
from mixkd.training.loop import train
from mixkd.training.state import Outcome, Surroundings, TrainData

STEPS = 10  # two epochs of five

UNTIMED = {"seconds": 0.0, "writing_seconds": 0.0}


@dataclass(frozen=True)
class Case:
    """A training whose result must not depend on what happens on the way."""

    phase: str = "distil"
    precision: str = "fp32"
    micro_batch: int | None = None
    patience: int | None = None
    evaluations: int = 2
    schedule: str = "linear"
    every: int = 1  # steps between two checkpoints

    @property
    def parts(self) -> int:
        """Of each batch."""
        return -(-8 // (self.micro_batch or 8))


@dataclass
class Result:
    outcome: Outcome
    weights: dict[str, torch.Tensor]
    metrics: dict[int, dict[str, float]]
    notes: list[str]


def rows(count: int, seed: int) -> Encoded:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 9, count)
    tokens = rng.integers(5, 30, lengths.sum()).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(tokens, np.zeros_like(tokens, np.uint8), starts, rng.integers(3, size=count), 3, 0)


def model(layers: int, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            num_labels=3,
        )
    )


def attempt(
    case: Case, folder: Path, metrics: dict[int, dict[str, float]], at_step: Callable[[], None]
) -> Result:
    """Train in a fresh process's stead: nothing but `folder` is left of the attempts before."""
    data = TrainData(rows(40, 1), rows(12, 2), "single_label", ("accuracy",))
    student, messages = model(2, 3), []
    if case.phase == "teach":
        loss, mixup, teacher = LossSpec(sm_weight=0, tmkd_weight=0), None, None
    else:
        loss, mixup, teacher = LossSpec(), MixupSpec(partner="set"), Network(model(3, 4), data.train)
    learn = imitate(Network(student, data.train), teacher, loss, "single_label")

    clock = 0.0  # a second a step

    def objective(part: Part) -> dict[str, torch.Tensor]:
        nonlocal clock
        clock += 1 / case.parts
        at_step()
        terms = learn(part)
        # fp16: large enough for some steps to overflow, until their scale is found
        return terms if case.precision != "fp16" else {"loss": terms["loss"] * 30}

    def send(message: Message) -> None:
        messages.append(message)
        if isinstance(message, Metric):
            metrics[message.step] = message.values

    torch.rand(len(metrics) + 1)  # what chance was used before must not matter
    with patch("mixkd.training.loop.time", SimpleNamespace(monotonic=lambda: clock)):
        outcome = train(
            case.phase,
            student,
            objective,
            data,
            TrainSpec(
                epochs=2,
                batch_size=8,
                learning_rate=1e-2,
                evaluations_per_epoch=case.evaluations,
                patience=case.patience,
                schedule=case.schedule,
            ),
            mixup=mixup,
            around=Surroundings(
                7,
                torch.device("cpu"),
                RuntimeSpec(
                    precision=case.precision,
                    micro_batch=case.micro_batch,
                    checkpoint_seconds=case.every - 0.1,
                ),
                Reporter(send),
                Control(),
                folder,
            ),
        )
    notes = [message.detail for message in messages if isinstance(message, Note)]
    return Result(outcome, student.state_dict(), metrics, notes)


@cache
def undisturbed(case: Case) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return attempt(case, Path(folder), {}, lambda: None)


def without_seconds(outcome: Outcome) -> Outcome:
    return outcome.model_copy(update=UNTIMED)


def same(found: Result, case: Case) -> None:
    expected = undisturbed(case)
    assert found.outcome.model_copy(update=UNTIMED) == expected.outcome.model_copy(update=UNTIMED)
    assert found.metrics == expected.metrics
    for name, value in expected.weights.items():
        assert torch.equal(value, found.weights[name]), name


class Killed(BaseException):
    """In the place of SIGKILL: nothing of ours handles it, and no clean-up is done for it."""


class Trouble:
    """What befalls one attempt: at call number `calls` of something a kill, or a disk without space."""

    def __init__(self, where: str, calls: int) -> None:
        self.where, self.left, self.dead = where, calls, False

    def __repr__(self) -> str:
        return f"Trouble({self.where!r}, {self.left})"

    def at(self, where: str) -> bool:
        if where == self.where:
            self.left -= 1
        return where == self.where and self.left == 0

    def kill(self) -> None:
        self.dead = True
        raise Killed

    @contextmanager
    def befalls(self) -> Iterator[None]:
        rename, rmtree = Path.rename, shutil.rmtree

        def half_a_file(tensors: object, path: Path) -> None:
            if self.at("full"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.at("write"):
                path.write_bytes(b"half a file")
                self.kill()
            save_file(tensors, path)

        def no_rename(path: Path, target: Path) -> Path:
            if self.at("rename"):
                self.kill()
            return rename(path, target)

        def half_a_removal(path: Path, ignore_errors: bool = False) -> None:
            if self.at("remove") and path.exists():
                next(path.iterdir()).unlink()
                self.kill()
            if not self.dead:
                rmtree(path, ignore_errors)

        with (
            patch("mixkd.training.checkpoint.save_file", half_a_file),
            patch.object(Path, "rename", no_rename),
            patch("mixkd.training.checkpoint.shutil.rmtree", half_a_removal),
        ):
            yield

    def at_step(self) -> None:
        if self.at("step"):
            self.kill()


CASES = [
    Case(phase="teach"),
    Case(),
    Case(micro_batch=3),
    Case(precision="bf16", schedule="cosine"),
    Case(precision="fp16", phase="teach"),
    Case(patience=2, evaluations=5),
    Case(every=3, evaluations=3),
]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    case=st.sampled_from(CASES),
    troubles=st.lists(
        st.builds(
            Trouble, st.sampled_from(["step", "write", "rename", "remove", "full"]), st.integers(1, 2 * STEPS)
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_whatever_befalls_a_training_its_result_is_the_same_to_the_bit(
    case: Case, troubles: list[Trouble]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        metrics: dict[int, dict[str, float]] = {}
        for trouble in troubles:
            with trouble.befalls(), suppress(Killed):
                attempt(case, Path(folder), metrics, trouble.at_step)
        same(attempt(case, Path(folder), metrics, lambda: None), case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_training_killed_at_any_step_goes_on_with_that_step(case: Case, tmp_path: Path) -> None:
    """That it ends alike is not enough: one that began anew would, too."""
    last = undisturbed(case).outcome.steps
    for step in range(1, last + 1):
        metrics: dict[int, dict[str, float]] = {}
        folder = tmp_path / str(step)
        trouble = Trouble("step", step * case.parts)  # in the middle of it, where it has parts
        with pytest.raises(Killed):
            attempt(case, folder, metrics, trouble.at_step)
        calls = Counter[str]()
        found = attempt(case, folder, metrics, lambda calls=calls: calls.update(["parts"]))
        assert calls["parts"] == (last - (step - 1) // case.every * case.every) * case.parts
        assert found.notes == []
        same(found, case)


def test_a_process_that_is_killed_time_and_again_leaves_the_same_result(tmp_path: Path) -> None:
    """SIGKILL itself, between steps, in writing, before the rename, in removing; see `main`."""
    command = [sys.executable, __file__, tmp_path]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["killed"] * 4 + ["finished"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    calls = Counter[str]()
    found = attempt(Case(), tmp_path, {}, lambda: calls.update(["parts"]))
    assert calls["parts"] == 0  # what is finished is not done again
    expected = undisturbed(Case())
    assert without_seconds(found.outcome) == without_seconds(expected.outcome)
    assert all(torch.equal(value, found.weights[name]) for name, value in expected.weights.items())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def nest(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *product(["model.safetensors", "optimiser.safetensors", "state.json"], [flip, cut, Path.unlink]),
        ("state.json", nest),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(
    file: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    metrics: dict[int, dict[str, float]] = {}
    with pytest.raises(Killed):
        attempt(Case(), tmp_path, metrics, Trouble("step", 8).at_step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000007"]
    damage(tmp_path / "step-00000007" / file)
    calls = Counter[str]()
    found = attempt(Case(), tmp_path, metrics, lambda: calls.update(["parts"]))
    assert calls["parts"] == STEPS - 6
    assert len(found.notes) == 1
    assert "step-00000007" in found.notes[0]
    assert file in found.notes[0]
    same(found, Case())


def test_damaged_best_weights_cost_one_checkpoint_only(tmp_path: Path) -> None:
    metrics: dict[int, dict[str, float]] = {}
    with pytest.raises(Killed):
        attempt(Case(), tmp_path, metrics, Trouble("step", 8).at_step)
    flip(tmp_path / "step-00000007" / "best.safetensors")
    found = attempt(Case(), tmp_path, metrics, lambda: None)
    assert [note.partition(" is not")[0] for note in found.notes] == ["checkpoint step-00000007"]
    same(found, Case())


@pytest.mark.parametrize(
    "facts", [{"step": STEPS + 1}, {"step": -1}, {"step": "x"}, {"micro_batch": 0}, {"outcome": 3}]
)
def test_facts_that_no_training_can_have_are_told_and_not_used(
    facts: dict[str, object], tmp_path: Path
) -> None:
    metrics: dict[int, dict[str, float]] = {}
    with pytest.raises(Killed):
        attempt(Case(), tmp_path, metrics, Trouble("step", 8).at_step)
    path = tmp_path / "step-00000007" / "state.json"
    state = json.loads(path.read_bytes())
    state["content"]["facts"] |= facts
    canonical = json.dumps(state["content"], sort_keys=True)
    path.write_text(json.dumps(state | {"sha256": hashlib.sha256(canonical.encode()).hexdigest()}))
    found = attempt(Case(), tmp_path, metrics, lambda: None)
    assert [note.partition(":")[0] for note in found.notes] == ["checkpoint step-00000007 is not used"]
    same(found, Case())


def test_a_checkpoint_of_another_training_is_told_and_not_used(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        attempt(Case(schedule="cosine"), tmp_path, {}, Trouble("step", 8).at_step)
    found = attempt(Case(), tmp_path, {}, lambda: None)
    assert len(found.notes) == 2
    assert "other settings" in found.notes[0]
    same(found, Case())


def main(folder: Path) -> None:
    """Die at four points, each time in another process, then finish."""
    for trouble in (
        Trouble("step", 4),
        Trouble("write", 5),
        Trouble("rename", 3),
        Trouble("remove", 2),
        Trouble("none", 0),
    ):
        child = os.fork()
        if child == 0:
            trouble.kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
            with trouble.befalls():
                attempt(Case(), folder, {}, trouble.at_step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "finished", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
