"""A published encoder, MiniLM of six layers, from its folder to a student that plain transformers loads."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from demo import materials
from mixkd.batching import parts
from mixkd.classifier import mix_at
from mixkd.contract.folder import inspect_folder
from mixkd.contract.rows import Row
from mixkd.contract.spec import LossSpec, MixupSpec, StudentSpec
from mixkd.data import encode
from mixkd.mixup import draw_pairs
from mixkd.objectives import Network, imitate
from mixkd.student import build_student
from mixkd.teacher import load_tokenizer, load_with_new_head

LABELS = ("person", "place")
ROWS = [
    Row(1, "Who wrote the national anthem of a country that has none?", None, "person"),
    Row(2, "Where is the Rider College located?", None, "place"),
    Row(3, "Who was Galileo?", None, "person"),
    Row(4, "What is the oldest city in Spain?", None, "place"),
]


def test_minilm_teaches_a_student_of_three_layers(tmp_path: Path) -> None:
    folder = materials.minilm()
    info = inspect_folder(folder)
    assert (info.family, info.layers, info.hidden_size, info.labels) == ("bert", 6, 384, None)

    torch.manual_seed(0)
    teacher = load_with_new_head(folder, LABELS, "single_label")
    student = build_student(StudentSpec(layers=3, pick="even"), teacher, labels=LABELS, task="single_label")
    assert sum(weight.numel() for weight in student.parameters()) < 0.8 * info.parameters

    tokenizer = load_tokenizer(folder)
    rows = encode(ROWS, tokenizer, "single_label", LABELS, 32)
    objective = imitate(
        Network(student, rows, mix_at(student, "auto")), Network(teacher, rows), LossSpec(), "single_label"
    )
    (part,) = parts(np.arange(4), draw_pairs(np.arange(4), 4, MixupSpec(), np.random.default_rng(0)), None)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = objective(part)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]

    student.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asked = AutoTokenizer.from_pretrained(tmp_path)(
        [row.text for row in ROWS], padding=True, return_tensors="pt"
    )
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(**asked).logits, student(**asked).logits)
    assert inspect_folder(tmp_path).labels == list(LABELS)
