"""The loop: what it keeps, when it stops, what decides it. How it goes on after a kill is in test_resume."""

import os
import shutil
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from mixkd.batching import Part
from mixkd.contract.messages import CheckpointWritten, Message, Metric, Note, PhaseStarted, Progress
from mixkd.contract.spec import MixupSpec, TrainSpec
from mixkd.training import loop
from mixkd.training.control import Control
from mixkd.training.loop import evaluation_steps, step_count
from mixkd.training.state import TrainData, Training, save
from tests.support.training import SPEC, Fit, Terms, at_step, equal, finetune, scores, weights


def evaluations(messages: list[Message]) -> list[Metric]:
    return [m for m in messages if isinstance(m, Metric) and "validation_accuracy" in m.values]


# -- the best evaluation ---------------------------------------------------------------------------------


def test_a_model_learns_and_keeps_the_weights_of_its_best_epoch(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    before = scores(classifier, rows)
    outcome = fit()
    after = scores(classifier, rows)
    assert after["loss"] < before["loss"]
    told = evaluations(messages)
    assert [m.step for m in told] == [8, 16, 24]
    best = max(told, key=lambda m: (m.values["validation_accuracy"], -m.values["validation_loss"]))
    assert (outcome.best_epoch, outcome.best_step) == (best.step // 8, best.step)
    assert outcome.validation == after
    assert after == {
        name.removeprefix("validation_"): value
        for name, value in best.values.items()
        if name.startswith("validation_")
    }
    assert (outcome.steps, outcome.epochs, outcome.stopped) == (24, 3, "end")
    assert not classifier.training


def test_a_worse_last_epoch_is_not_kept(classifier: PreTrainedModel, rows: TrainData, fit: Fit) -> None:
    learn, calls = finetune(classifier, rows), 0

    def spoil_later(part: Part) -> Terms:
        nonlocal calls
        calls += 1
        loss = learn(part)["loss"]
        return {"loss": loss if calls <= 8 else -loss}  # from the second epoch on it unlearns

    outcome = fit(objective=spoil_later)
    assert outcome.best_epoch == 1
    assert scores(classifier, rows) == outcome.validation


def test_an_epoch_can_have_several_evaluations_and_none_may_be_better_for_long(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    learn = finetune(classifier, rows)

    def stand_still(part: Part) -> Terms:
        return {"loss": learn(part)["loss"] * 0}

    spec = SPEC.model_copy(update={"evaluations_per_epoch": 3, "patience": 2, "weight_decay": 0.0})
    outcome = fit(objective=stand_still, spec=spec)
    assert [m.step for m in evaluations(messages)] == [3, 6, 8]
    assert (outcome.stopped, outcome.steps, outcome.epochs, outcome.best_step) == ("early", 8, 1, 3)


def test_a_better_evaluation_restores_the_patience(monkeypatch: pytest.MonkeyPatch, fit: Fit) -> None:
    accuracies = iter([0.5, 0.4, 0.6, 0.6, 0.6, 0.7])
    monkeypatch.setattr(
        "mixkd.training.loop.validate", lambda *_, **__: {"accuracy": next(accuracies), "loss": 1.0}
    )
    outcome = fit(spec=SPEC.model_copy(update={"epochs": 6, "patience": 2}))
    assert (outcome.steps, outcome.best_step, outcome.stopped) == (5 * 8, 3 * 8, "early")
    assert outcome.validation["accuracy"] == 0.6


def test_dropout_is_on_in_every_step(classifier: PreTrainedModel, rows: TrainData, fit: Fit) -> None:
    """Evaluations switch it off."""
    learn, on = finetune(classifier, rows), []

    def note(part: Part) -> Terms:
        on.append(classifier.training)
        return learn(part)

    fit(objective=note)
    assert on == [True] * 24


@pytest.mark.parametrize(("an_epoch", "times", "expected"), [(8, 1, {8}), (8, 3, {3, 6, 8}), (2, 5, {1, 2})])
def test_evaluations_are_spread_over_an_epoch(an_epoch: int, times: int, expected: set[int]) -> None:
    spec = TrainSpec(epochs=2, evaluations_per_epoch=times)
    assert evaluation_steps(an_epoch, spec) == expected | {an_epoch + step for step in expected}


# -- one seed decides ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_does_not(
    classifier_folder: Path, fit: Fit
) -> None:
    def trained(seed: int, folder: str) -> dict[str, torch.Tensor]:
        torch.rand(seed + 3)  # whatever chance was used before must not matter
        model = BertForSequenceClassification.from_pretrained(classifier_folder)
        fit(model, seed=seed, folder=folder)
        return weights(model)

    one, same, other = trained(1, "one"), trained(1, "same"), trained(2, "other")
    assert equal(one, same)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_trainings_of_one_stream_see_the_same_batches_and_pairs(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    def seen(**arguments: Any) -> tuple[list[list[int]], list[list[float]]]:
        batches, weights = [], []
        learn = finetune(classifier, rows)

        def note(part: Part) -> Terms:
            assert part.pairs is not None
            batches.append(part.rows.tolist())
            weights.append(part.pairs.weight.tolist())
            return learn(part)

        fit(objective=note, mixup=MixupSpec(), **arguments)
        return batches, weights

    distil = seen(folder="distil", stream="distil")
    messages.clear()
    baseline = seen(folder="kd", stream="distil", first_step=24)
    assert not any(isinstance(m, PhaseStarted) for m in messages)  # its caller announces it
    assert [m.step for m in evaluations(messages)] == [32, 40, 48]
    assert distil == baseline
    other = seen(folder="teach")
    for one, another in zip(distil, other, strict=True):
        assert not any(values == others for values, others in zip(one, another, strict=True))
    for drawn in distil:  # anew at every step of every epoch
        assert len({tuple(values) for values in drawn}) == 24


# -- wishes ----------------------------------------------------------------------------------------------


def test_finish_now_stops_at_the_next_step_and_keeps_the_best(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], control: Control, fit: Fit
) -> None:
    def finish(terms: Terms) -> Terms:
        control.finish_now = True
        return terms

    outcome = fit(objective=at_step(11, finetune(classifier, rows), finish))
    assert (outcome.steps, outcome.epochs, outcome.stopped) == (11, 2, "asked")
    assert [m.step for m in evaluations(messages)] == [8, 11]
    assert outcome.best_step in (8, 11)
    assert scores(classifier, rows) == outcome.validation
    assert not control.finish_now  # the student that follows a teacher is trained


def test_finish_now_before_the_first_step_waits_for_that_one(
    classifier: PreTrainedModel, rows: TrainData, control: Control, fit: Fit
) -> None:
    before = weights(classifier)
    control.finish_now = True
    outcome = fit()
    assert (outcome.steps, outcome.best_step, outcome.best_epoch, outcome.epochs) == (1, 1, 1, 1)
    assert outcome.validation == scores(classifier, rows)
    assert not equal(before, weights(classifier))  # untrained weights are nobody's wish


def test_sigterm_leaves_a_checkpoint_of_the_last_step(
    classifier_folder: Path, rows: TrainData, messages: list[Message], control: Control, fit: Fit
) -> None:
    passed = 0

    def terminate(terms: Terms) -> Terms:
        nonlocal passed
        passed = 1000
        os.kill(os.getpid(), signal.SIGTERM)
        return terms

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    control.install()
    stopped = BertForSequenceClassification.from_pretrained(classifier_folder)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)
    try:
        with patch("mixkd.training.loop.time", clock), pytest.raises(SystemExit) as left:
            fit(stopped, at_step(5, finetune(stopped, rows), terminate))
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGUSR1, before[1])
    assert left.value.code == 143
    assert [m.step for m in messages if isinstance(m, CheckpointWritten)] == [5]

    control.stop = False
    again = BertForSequenceClassification.from_pretrained(classifier_folder)
    outcome = fit(again)
    assert outcome.seconds > 1000  # of both attempts
    whole = BertForSequenceClassification.from_pretrained(classifier_folder)
    fit(whole, folder="whole")
    assert equal(weights(again), weights(whole))


# -- what is said ----------------------------------------------------------------------------------------


def test_checkpoints_are_written_in_the_time_asked_for(messages: list[Message], fit: Fit) -> None:
    fit(checkpoint_seconds=0)
    assert [m.step for m in messages if isinstance(m, CheckpointWritten)] == [*range(1, 25), 24]
    messages.clear()
    fit(folder="other", checkpoint_seconds=1000)
    assert [m.step for m in messages if isinstance(m, CheckpointWritten)] == [24]  # its end


def test_checkpoints_that_take_long_are_written_less_often(
    messages: list[Message], monkeypatch: pytest.MonkeyPatch, fit: Fit
) -> None:
    """By a clock on which a step takes a second or less, and writing a checkpoint half of one."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.25
        return now

    def slow(training: Training) -> None:
        nonlocal now
        now += 0.5
        save(training)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(loop, "save", slow)
    outcome = fit(checkpoint_seconds=1)
    written = [m.step for m in messages if isinstance(m, CheckpointWritten)]
    assert len(written) == 2, "one, and the end: fifty times what it took is longer than the rest"
    assert 0.5 <= outcome.writing_seconds < 1.5


def test_a_disk_that_takes_no_checkpoint_does_not_end_the_training(
    messages: list[Message], tmp_path: Path, fit: Fit
) -> None:
    (tmp_path / "teach").write_text("in the way")
    outcome = fit(checkpoint_seconds=0)
    assert outcome.steps == 24
    assert any(isinstance(m, Note) and "no checkpoint" in m.detail for m in messages)
    assert not any(isinstance(m, CheckpointWritten) for m in messages)
    assert all(str(tmp_path) not in m.detail for m in messages if isinstance(m, Note))


def test_checkpoints_that_somebody_removes_are_written_anew(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], tmp_path: Path, fit: Fit
) -> None:
    """The best weights lay in them; those in memory are as good."""

    def remove(terms: Terms) -> Terms:
        shutil.rmtree(tmp_path / "teach")
        return terms

    fit(objective=at_step(10, finetune(classifier, rows), remove), checkpoint_seconds=0)
    written = [m.step for m in messages if isinstance(m, CheckpointWritten)]
    assert written == [*range(1, 25), 24]


@pytest.mark.parametrize("other", ["seed", "spec", "mixup", "precision", "data", "model"])
def test_what_decides_a_training_decides_whose_checkpoint_it_is(
    other: str, classifier: PreTrainedModel, rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    one_epoch = SPEC.model_copy(update={"epochs": 1})
    fit(spec=one_epoch)
    larger = BertConfig(**{**classifier.config.to_dict(), "intermediate_size": 40})
    relabelled = replace(rows.train, targets=np.roll(rows.train.targets, 1))
    changes: dict[str, dict[str, Any]] = {
        "seed": {"seed": 2},
        "spec": {"spec": one_epoch.model_copy(update={"learning_rate": 1e-3})},
        "mixup": {"mixup": MixupSpec()},
        "precision": {"precision": "bf16"},
        "data": {"data": replace(rows, train=relabelled)},
        "model": {"model": BertForSequenceClassification(larger)},
    }
    fit(**{"spec": one_epoch, **changes[other]})
    notes = [m.detail for m in messages if isinstance(m, Note)]
    assert notes == [
        "checkpoint finished is not used: it belongs to a training of other settings, data or model"
    ]


def test_a_finished_training_is_not_done_again(
    classifier: PreTrainedModel, classifier_folder: Path, fit: Fit
) -> None:
    outcome = fit()
    again = BertForSequenceClassification.from_pretrained(classifier_folder).train()

    def never(part: Part) -> Terms:
        raise AssertionError

    assert fit(again, never) == outcome
    assert equal(weights(again), weights(classifier))
    assert not again.training


def test_a_metric_is_the_mean_since_the_one_before(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    learn, losses = finetune(classifier, rows), []

    def note(part: Part) -> Terms:
        terms = learn(part)
        losses.append(float(terms["loss"].detach()))
        return terms

    fit(objective=note)
    told = [(m.step, m.values["loss"]) for m in messages if isinstance(m, Metric)]
    assert [step for step, _ in told] == [5, 8, 10, 15, 16, 20, 24]
    for (before, _), (step, value) in pairwise([(0, 0.0), *told]):
        assert value == pytest.approx(np.mean(losses[before:step]), rel=1e-6)


def test_a_phase_is_announced_with_its_steps_and_reports_to_the_last(
    rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    fit()
    assert messages[0] == PhaseStarted(phase="teach", steps=24)
    assert step_count(len(rows.train), SPEC) == 24
    last = [m for m in messages if isinstance(m, Progress)][-1]
    assert (last.step, last.steps) == (24, 24)
    first = next(m for m in messages if isinstance(m, Metric))
    assert first.values.keys() == {"loss", "mle", "gradient_norm", "learning_rate"}
