"""The student: the teacher's embeddings, its first k encoder layers, and its head."""

import copy

from torch.nn import ModuleList
from transformers import PreTrainedModel

from mixkd.contract.families import family


def build_student(teacher: PreTrainedModel, layers: int) -> PreTrainedModel:
    """A copy of the teacher that ends after its first `layers` encoder layers. The teacher keeps its own."""
    known = family(teacher.config.model_type)
    student = copy.deepcopy(teacher)
    path, _, name = known.encoder_layers.rpartition(".")
    owner = student.base_model.get_submodule(path)
    stack = getattr(owner, name)
    assert isinstance(stack, ModuleList)
    assert layers <= len(stack)
    setattr(owner, name, stack[:layers])
    setattr(student.config, known.layers_key, layers)
    student.config.problem_type = "single_label_classification"  # whatever the teacher was made for
    return student
