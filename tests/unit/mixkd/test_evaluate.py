"""Answers in the order of their rows, whatever batches they came in, and a stop where they mean nothing."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test asks the network

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from mixkd import evaluate, metrics
from mixkd.batching import Batch
from mixkd.contract.spec import Precision
from mixkd.data import Encoded
from mixkd.failures import NotFiniteError

CPU = torch.device("cpu")


def bert(layers: int = 2, labels: int = 3) -> PreTrainedModel:
    torch.manual_seed(layers)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=labels,
        initializer_range=0.5,  # as large as in a trained model, so that rows differ
    )
    return BertForSequenceClassification(config)


def encoded(rows: int = 150, seed: int = 0) -> Encoded:
    """Rows of 2 to 12 tokens with one of three labels."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 13, size=rows)
    starts = np.concatenate([[0], lengths.cumsum()])
    tokens = rng.integers(1, 50, size=starts[-1]).astype(np.int32)
    segments = rng.integers(2, size=starts[-1]).astype(np.uint8)
    return Encoded(tokens, segments, starts, rng.integers(3, size=rows), outputs=3, pad_id=0)


def test_answers_are_those_of_each_row_alone_and_in_order() -> None:
    model, rows = bert(), encoded()
    found = evaluate.answers(model, rows, CPU)
    assert (found.shape, found.dtype) == ((150, 3), np.float32)
    for row in (0, 70, 149):
        place = slice(rows.starts[row], rows.starts[row + 1])
        with torch.inference_mode():
            alone = model.eval()(
                input_ids=torch.from_numpy(rows.tokens[place]).long()[None],
                token_type_ids=torch.from_numpy(rows.segments[place]).long()[None],
            ).logits
        np.testing.assert_allclose(found[row], alone[0].numpy(), rtol=1e-4, atol=1e-5)


def test_dropout_is_off_whatever_the_model_was_doing() -> None:
    model, rows = bert().train(), encoded()
    np.testing.assert_array_equal(evaluate.answers(model, rows, CPU), evaluate.answers(model, rows, CPU))
    assert not model.training


def test_where_memory_runs_out_fewer_rows_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = bert(), encoded()
    plain, asked, whole = evaluate.answer, [], evaluate.answers(model, rows, CPU)

    def hungry(model: PreTrainedModel, batch: Batch, precision: Precision) -> torch.Tensor:
        asked.append(len(batch.tokens))
        if len(batch.tokens) > 20:
            raise torch.OutOfMemoryError
        return plain(model, batch, precision)

    monkeypatch.setattr(evaluate, "answer", hungry)
    np.testing.assert_allclose(evaluate.answers(model, rows, CPU), whole, rtol=1e-4, atol=1e-5)
    assert max(asked[-5:]) <= 20


def test_one_row_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(evaluate, "answer", never)
    with pytest.raises(torch.OutOfMemoryError):
        evaluate.answers(bert(), encoded(), CPU)


def test_lower_precision_is_close_and_not_the_same() -> None:
    model, rows = bert(), encoded()
    full, half = evaluate.answers(model, rows, CPU), evaluate.answers(model, rows, CPU, "bf16")
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.1 * np.abs(full).max()


def test_validation_scores_the_answers() -> None:
    model, rows = bert(), encoded()
    scores = evaluate.validate(model, rows, "single_label", ["accuracy", "macro_f1"], CPU)
    answers = evaluate.answers(model, rows, CPU)
    assert scores["accuracy"] == np.mean(answers.argmax(-1) == rows.targets)
    assert scores == metrics.score(answers, np.eye(3)[rows.targets], "single_label", ["accuracy", "macro_f1"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_answer_that_is_not_a_number_has_no_score(value: float) -> None:
    model = bert()
    with torch.no_grad():
        model.classifier.bias[1] = value
    with pytest.raises(NotFiniteError):
        evaluate.validate(model, encoded(), "single_label", ["accuracy"], CPU)


def test_speed_is_measured_for_each_model_on_rows_of_its_own() -> None:
    models = {"teacher": bert(layers=6), "student": bert(layers=1)}
    long = encoded(40)
    short = Encoded(
        long.tokens[:80], long.segments[:80], np.arange(41) * 2, long.targets, outputs=3, pad_id=0
    )
    speeds = evaluate.measure_speed(models, {"teacher": long, "student": short}, CPU)
    assert set(speeds) == set(models)
    for speed in speeds.values():
        assert 0 < speed.latency_ms_p50 <= speed.latency_ms_p95
    assert speeds["student"].latency_ms_p50 < speeds["teacher"].latency_ms_p50
    assert speeds["student"].examples_per_second > speeds["teacher"].examples_per_second


def test_a_weight_that_serves_twice_is_one_parameter() -> None:
    model = bert(labels=3)
    alone = evaluate.parameter_count(model)
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    assert alone - evaluate.parameter_count(model) == sum(
        weight.numel() for weight in model.bert.encoder.layer[0].parameters()
    )
