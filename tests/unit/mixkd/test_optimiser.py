"""The optimiser's groups, its learning rate at every step, and its memory."""

import copy

import pytest
import torch
from transformers import PreTrainedModel

from mixkd.contract.spec import TrainSpec
from mixkd.training.optimiser import adamw, memory, rate_at, remember


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup_ratio", [0, 0.3, 0.96])
def test_the_learning_rate_rises_then_obeys_its_schedule_and_is_never_zero(
    schedule: str, warmup_ratio: float
) -> None:
    spec = TrainSpec(learning_rate=2.0, warmup_ratio=warmup_ratio, schedule=schedule)
    rates = [rate_at(step, 10, spec) for step in range(10)]
    warm_up = round(10 * warmup_ratio)
    assert rates[:warm_up] == pytest.approx([2 * (n + 1) / (warm_up + 1) for n in range(warm_up)])
    assert rates[warm_up:] == sorted(rates[warm_up:], reverse=True)
    assert rates[warm_up : warm_up + 1] in ([], [2.0])
    assert min(rates) > 0
    if warm_up < 10:
        last = {"linear": 2 / (10 - warm_up), "constant": 2.0}.get(schedule)
        assert last is None or rates[-1] == pytest.approx(last)


def test_cosine_is_half_way_down_half_way_through() -> None:
    spec = TrainSpec(learning_rate=2.0, warmup_ratio=0.0, schedule="cosine")
    assert rate_at(5, 10, spec) == pytest.approx(1.0)
    assert rate_at(9, 10, spec) < 0.1


def test_biases_and_layernorms_do_not_decay(classifier: PreTrainedModel) -> None:
    decayed, kept = adamw(classifier, TrainSpec()).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (TrainSpec().weight_decay, 0)
    names = {id(weight): name for name, weight in classifier.named_parameters()}
    assert all(
        names[id(weight)].endswith("bias") or "LayerNorm" in names[id(weight)] for weight in kept["params"]
    )
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_a_memory_that_was_carried_over_gives_the_same_next_step(classifier: PreTrainedModel) -> None:
    spec, twin = TrainSpec(), copy.deepcopy(classifier)
    first, second = adamw(classifier, spec), adamw(twin, spec)

    def step(model: PreTrainedModel, optimiser: torch.optim.AdamW) -> None:
        optimiser.zero_grad()
        model(input_ids=torch.tensor([[2, 7, 8, 3]])).logits.square().sum().backward()
        optimiser.step()

    step(classifier, first)
    twin.load_state_dict(classifier.state_dict())
    assert memory(second, twin) == {}
    remember(second, twin, memory(first, classifier))
    step(classifier, first)
    step(twin, second)
    found = twin.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in classifier.state_dict().items())
    one, other = memory(first, classifier), memory(second, twin)
    assert one.keys() == other.keys()
    assert all(one[name].data_ptr() != other[name].data_ptr() for name in one)
