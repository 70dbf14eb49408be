"""What the tests of the training loop share: an objective, ways to break it, and views of a model."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from mixkd.batching import Part
from mixkd.contract.spec import LossSpec, TrainSpec
from mixkd.evaluate import validate
from mixkd.metrics import Scores
from mixkd.objectives import Network, Objective, imitate
from mixkd.training.state import Outcome, TrainData

CPU = torch.device("cpu")
SPEC = TrainSpec(epochs=3, batch_size=8, learning_rate=3e-3)
Fit = Callable[..., Outcome]
Terms = dict[str, torch.Tensor]


def finetune(model: PreTrainedModel, data: TrainData) -> Objective:
    loss = LossSpec(sm_weight=0, tmkd_weight=0)
    return imitate(Network(model, data.train), None, loss, "single_label")


def scores(model: PreTrainedModel, rows: TrainData) -> Scores:
    return validate(model, rows.validation, rows.task, rows.metrics, CPU)


def at_step(step: int, objective: Objective, do: Callable[[Terms], Terms]) -> Objective:
    """The objective, with its terms changed at one call, counted from 1."""
    calls = 0

    def changed(part: Part) -> Terms:
        nonlocal calls
        calls += 1
        return do(objective(part)) if calls == step else objective(part)

    return changed


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def steep(terms: Terms) -> Terms:
    return {"loss": (terms["loss"] - terms["loss"].detach()).sqrt()}  # 0, with an infinite slope
