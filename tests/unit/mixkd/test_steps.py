"""A step: a batch in parts, memory that runs out, numbers that are not finite, lower precisions."""

from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, PreTrainedModel

from mixkd.batching import Part
from mixkd.contract.messages import Message, Metric, Note
from mixkd.contract.spec import LossSpec, MixupSpec
from mixkd.failures import DivergedError, NotFiniteError
from mixkd.objectives import Network, Objective, imitate
from mixkd.training.state import TrainData
from tests.support.training import SPEC, Fit, Terms, at_step, equal, finetune, scores, steep, weights

# -- parts of a batch ------------------------------------------------------------------------------------


def without_dropout(folder: Path) -> PreTrainedModel:
    return BertForSequenceClassification.from_pretrained(
        folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )


@pytest.mark.parametrize("mixup", [None, MixupSpec(partner="set", ratio=2)])
def test_a_batch_in_parts_trains_like_a_whole_one(
    classifier_folder: Path, rows: TrainData, messages: list[Message], mixup: MixupSpec | None, fit: Fit
) -> None:
    found, losses = [], []
    for micro_batch in (None, 3):
        model = without_dropout(classifier_folder)
        loss = LossSpec(sm_weight=1 if mixup else 0, tmkd_weight=0)
        objective = imitate(Network(model, rows.train), None, loss, "single_label")
        messages.clear()
        fit(model, objective, mixup=mixup, folder=str(micro_batch), micro_batch=micro_batch)
        found.append(weights(model))
        losses.append([m.values["loss"] for m in messages if isinstance(m, Metric)])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_parts_of_a_batch_have_dropout_of_their_own(
    classifier_folder: Path, rows: TrainData, fit: Fit
) -> None:
    """Rows 1 to 4 and 5 to 8 of a batch would lose the same units otherwise."""
    model = BertForSequenceClassification.from_pretrained(classifier_folder)
    masks = []
    learn = finetune(model, rows)

    def note(part: Part) -> Terms:
        masks.append(torch.nn.functional.dropout(torch.ones(64)))
        return learn(part)

    fit(model, note, micro_batch=4)
    assert not torch.equal(masks[0], masks[1])
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks)


def out_of_memory(largest: int, objective: Objective) -> Objective:
    """The objective on a device that holds so many rows."""

    def limited(part: Part) -> Terms:
        terms = objective(part)  # the memory is taken, and gradients of earlier parts are there
        if part.real > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return terms

    return limited


def test_when_memory_runs_out_the_batch_is_cut_in_smaller_parts(
    classifier_folder: Path, rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    halved = BertForSequenceClassification.from_pretrained(classifier_folder)
    outcome = fit(halved, out_of_memory(3, finetune(halved, rows)), folder="halved")
    small = BertForSequenceClassification.from_pretrained(classifier_folder)
    fit(small, folder="small", micro_batch=2)
    assert outcome.micro_batch == 2
    assert outcome.steps == 24
    notes = [m.detail for m in messages if isinstance(m, Note)]
    assert notes == list(outcome.notes)
    assert ["4 rows at once" in notes[0], "2 rows at once" in notes[1]] == [True, True]
    assert equal(weights(halved), weights(small))  # the failed tries left no gradient behind


def test_a_row_that_does_not_fit_alone_is_the_end(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        fit(objective=out_of_memory(0, finetune(classifier, rows)))
    assert "1 rows at once" in [m.detail for m in messages if isinstance(m, Note)][-1]


def test_another_error_is_not_tried_again(fit: Fit) -> None:
    calls = []

    def broken(part: Part) -> Terms:
        calls.append(part)
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    with pytest.raises(RuntimeError, match="size of tensor"):
        fit(objective=broken)
    assert len(calls) == 1


# -- numbers that are not finite -------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(
    classifier: PreTrainedModel, rows: TrainData, fit: Fit
) -> None:
    seen: dict[str, torch.Tensor] = {}

    def break_it(terms: Terms) -> Terms:
        seen.update(weights(classifier))
        return {"loss": terms["loss"] * float("nan")}

    for call, seconds in ((4, 0), (1, 1000)):  # and again where the checkpoint left it
        with pytest.raises(DivergedError) as caught:
            fit(objective=at_step(call, finetune(classifier, rows), break_it), checkpoint_seconds=seconds)
        assert (caught.value.step, caught.value.checkpoint) == (4, 3)
        assert 0 < caught.value.learning_rate <= SPEC.learning_rate
        assert equal(weights(classifier), seen)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_finite_loss_with_an_infinite_gradient_is_a_divergence_too(
    classifier: PreTrainedModel, rows: TrainData, precision: str, fit: Fit
) -> None:
    with pytest.raises(DivergedError) as caught:
        fit(objective=at_step(2, finetune(classifier, rows), steep), precision=precision)
    assert caught.value.checkpoint is None


def test_answers_that_are_not_finite_get_no_score(
    classifier: PreTrainedModel, rows: TrainData, fit: Fit
) -> None:
    """A NaN that only validation sees: the argmax of NaN would pass for an answer."""

    def break_the_model(terms: Terms) -> Terms:
        with torch.no_grad():
            classifier.classifier.bias.fill_(float("nan"))
        return terms

    with pytest.raises(DivergedError) as caught:  # step 8 is the last one of the epoch
        fit(objective=at_step(8, finetune(classifier, rows), break_the_model), checkpoint_seconds=0)
    assert isinstance(caught.value.__cause__, NotFiniteError)
    assert caught.value.checkpoint == 7


def test_in_fp16_a_step_whose_gradient_overflows_is_left_out(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], fit: Fit
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    learn = at_step(3, finetune(classifier, rows), steep)

    def note(part: Part) -> Terms:
        seen.append(weights(classifier))
        return learn(part)

    outcome = fit(objective=note, precision="fp16")
    assert outcome.steps == 24
    assert not equal(seen[1], seen[2])
    assert equal(seen[2], seen[3])
    assert not equal(seen[3], seen[4])
    metrics = [m.values for m in messages if isinstance(m, Metric)]
    assert all("gradient_norm" in values for values in metrics)


def test_in_fp16_a_loss_that_is_not_finite_is_a_divergence_at_once(
    classifier: PreTrainedModel, rows: TrainData, fit: Fit
) -> None:
    learn = at_step(3, finetune(classifier, rows), lambda terms: {"loss": terms["loss"] * float("inf")})
    with pytest.raises(DivergedError) as caught:
        fit(objective=learn, precision="fp16")
    assert caught.value.step == 3


def test_in_fp16_a_gradient_that_overflows_whatever_its_scale_is_a_divergence(
    classifier: PreTrainedModel, rows: TrainData, fit: Fit
) -> None:
    learn = finetune(classifier, rows)
    with pytest.raises(DivergedError) as caught:
        fit(objective=lambda part: steep(learn(part)), precision="fp16")
    assert 10 <= caught.value.step <= 20


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_learn_too_and_keep_their_weights_in_fp32(
    classifier: PreTrainedModel, rows: TrainData, precision: str, fit: Fit
) -> None:
    before = scores(classifier, rows)["loss"]
    dtypes = set()
    learn = finetune(classifier, rows)
    classifier.bert.encoder.layer[0].output.dense.register_forward_hook(
        lambda *seen: dtypes.add(seen[2].dtype)
    )
    outcome = fit(objective=learn, precision=precision)
    assert dtypes == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert {weight.dtype for weight in classifier.parameters()} == {torch.float32}
    assert outcome.validation["loss"] < before
