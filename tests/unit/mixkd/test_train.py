"""The loop: what it keeps, when it stops, what decides it."""

import pytest
import torch
from transformers import BertForSequenceClassification, PreTrainedModel

from mixkd.batching import Batch
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.messages import Message, Metric
from mixkd.contract.spec import TrainSpec
from mixkd.data import encode, read_splits
from mixkd.evaluate import evaluate
from mixkd.failures import DivergedError, NotFiniteError
from mixkd.objectives import finetune
from mixkd.reporter import Reporter
from mixkd.teacher import load_tokenizer
from mixkd.train import Outcome, TrainData, adamw, rate_factor, train

CPU = torch.device("cpu")
SPEC = TrainSpec(epochs=3, batch_size=8, learning_rate=3e-3)


@pytest.fixture
def rows(classifier_folder: str, data: DataSpec) -> TrainData:
    splits, _ = read_splits(data)
    tokenizer = load_tokenizer(classifier_folder)
    ids = {"none": 0, "blue": 1, "green": 2, "red": 3}
    return TrainData(
        encode(splits["train"], tokenizer, ids, 16), encode(splits["validation"], tokenizer, ids, 16), 0
    )


def fit(model: PreTrainedModel, rows: TrainData, reporter: Reporter, spec: TrainSpec = SPEC) -> Outcome:
    return train("teach", model, finetune(model), rows, spec, seed=1, device=CPU, reporter=reporter)


def test_a_model_learns_and_keeps_the_weights_of_its_best_epoch(
    classifier: PreTrainedModel, rows: TrainData, messages: list[Message], reporter: Reporter
) -> None:
    before = evaluate(classifier, rows.validation, 0, CPU)
    outcome = fit(classifier, rows, reporter)
    after = evaluate(classifier, rows.validation, 0, CPU)
    assert after.loss < before.loss
    epochs = [m for m in messages if isinstance(m, Metric) and "validation_accuracy" in m.values]
    assert [m.step for m in epochs] == [8, 16, 24]
    best = max(epochs, key=lambda m: (m.values["validation_accuracy"], -m.values["validation_loss"]))
    assert outcome.best_epoch == epochs.index(best) + 1
    assert after.loss == pytest.approx(best.values["validation_loss"])
    assert outcome.validation == after


def test_a_worse_last_epoch_is_not_kept(
    classifier: PreTrainedModel, rows: TrainData, reporter: Reporter
) -> None:
    def spoil_later(batch: Batch, step: int) -> dict[str, torch.Tensor]:
        loss = finetune(classifier)(batch, step)["loss"]
        return {"loss": loss if step < 8 else -loss}  # from the second epoch on it unlearns

    spec = TrainSpec(epochs=3, batch_size=8, learning_rate=3e-3)
    outcome = train("teach", classifier, spoil_later, rows, spec, seed=1, device=CPU, reporter=reporter)
    assert outcome.best_epoch == 1
    assert evaluate(classifier, rows.validation, 0, CPU) == outcome.validation


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_does_not(
    classifier_folder: str, rows: TrainData, reporter: Reporter
) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(seed + 3)  # whatever chance was used before must not matter
        model = BertForSequenceClassification.from_pretrained(classifier_folder)
        train("teach", model, finetune(model), rows, SPEC, seed=seed, device=CPU, reporter=reporter)
        return model.state_dict()

    one, same, other = trained(1), trained(1), trained(2)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(
    classifier: PreTrainedModel, rows: TrainData, reporter: Reporter
) -> None:
    seen: dict[str, torch.Tensor] = {}

    def breaks_at_step_4(batch: Batch, step: int) -> dict[str, torch.Tensor]:
        loss = finetune(classifier)(batch, step)["loss"]
        if step == 3:
            seen.update({name: value.clone() for name, value in classifier.state_dict().items()})
            loss = loss * float("nan")
        return {"loss": loss}

    with pytest.raises(DivergedError) as caught:
        train("teach", classifier, breaks_at_step_4, rows, SPEC, seed=1, device=CPU, reporter=reporter)
    assert caught.value.step == 4
    assert 0 < caught.value.learning_rate <= SPEC.learning_rate
    assert all(torch.equal(value, seen[name]) for name, value in classifier.state_dict().items())


def test_a_finite_loss_with_an_infinite_gradient_is_a_divergence_too(
    classifier: PreTrainedModel, rows: TrainData, reporter: Reporter
) -> None:
    def steep(batch: Batch, step: int) -> dict[str, torch.Tensor]:
        loss = finetune(classifier)(batch, step)["loss"]
        return {"loss": (loss - loss.detach()).sqrt()}  # 0, with an infinite slope

    with pytest.raises(DivergedError):
        train("teach", classifier, steep, rows, SPEC, seed=1, device=CPU, reporter=reporter)


def test_answers_that_are_not_finite_get_no_score(
    classifier: PreTrainedModel, rows: TrainData, reporter: Reporter
) -> None:
    """A NaN that only validation sees: the argmax of NaN would pass for an answer."""

    def breaks_the_model(batch: Batch, step: int) -> dict[str, torch.Tensor]:
        loss = finetune(classifier)(batch, step)["loss"]
        if step == 7:  # the last one of the epoch
            with torch.no_grad():
                classifier.classifier.bias.fill_(float("nan"))
        return {"loss": loss}

    with pytest.raises(DivergedError) as caught:
        train("teach", classifier, breaks_the_model, rows, SPEC, seed=1, device=CPU, reporter=reporter)
    assert isinstance(caught.value.__cause__, NotFiniteError)


def test_the_learning_rate_rises_then_falls_and_is_never_zero() -> None:
    factors = [rate_factor(step, 10, 3) for step in range(10)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[3:] == sorted(factors[3:], reverse=True)
    assert min(factors) > 0


@pytest.mark.parametrize("warm_up", [0, 3, 9, 10])
def test_the_schedule_can_be_asked_after_the_last_step(warm_up: int) -> None:
    assert rate_factor(10, 10, warm_up) == 0


def test_biases_and_layernorms_do_not_decay(classifier: PreTrainedModel) -> None:
    decayed, kept = adamw(classifier, SPEC).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (SPEC.weight_decay, 0)
    names = {id(weight): name for name, weight in classifier.named_parameters()}
    assert all(
        names[id(weight)].endswith("bias") or "LayerNorm" in names[id(weight)] for weight in kept["params"]
    )
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
