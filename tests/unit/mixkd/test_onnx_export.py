"""ONNX files of tiny models, run as a user runs them: every family's, and what is not kept."""

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, PreTrainedModel

from mixkd.batching import collate
from mixkd.contract.folder import inspect_folder
from mixkd.contract.problems import RefusedError
from mixkd.data import Encoded
from mixkd.export import onnx as onnx_export
from mixkd.export import onnx_check
from mixkd.export.folder import weights_bytes
from mixkd.export.onnx import export_onnx, onnx_available, quantise, refuse_missing_packages, write_onnx
from mixkd.export.onnx_check import OnnxCard, Variant, ask_torch, check
from mixkd.failures import NotFiniteError
from tests.support.encoders import HIDDEN, KINDS, LABELS, save_folder, tiny_classifier

SHAPES = [(1, 1), (1, 2), (1, 17), (2, 5), (3, 3), (7, 36)]  # rows, positions; 2 rows of 4 were traced
PAD = 1
TWO_TEXTS = {"bert", "electra", "albert"}  # the kinds here that tell a second text by segment ids


def ragged(rows: int, positions: int, kind: str) -> dict[str, torch.Tensor]:
    """A batch whose first row is full and whose others end in padding."""
    rng = np.random.default_rng(rows * positions)
    lengths = np.concatenate([[positions], rng.integers(1, positions + 1, rows - 1)])
    mask = (np.arange(positions) < lengths[:, None]).astype(np.int64)
    inputs = {
        "input_ids": np.where(mask == 1, rng.integers(5, 45, mask.shape), PAD),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, mask.shape) * mask,
    }
    if kind not in TWO_TEXTS:
        del inputs["token_type_ids"]
    return {name: torch.from_numpy(values) for name, values in inputs.items()}


def run(path: Path, inputs: Mapping[str, torch.Tensor]) -> NDArray[np.float32]:
    (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {k: v.numpy() for k, v in inputs.items()})
    return np.asarray(logits)


def float_matrices(path: Path) -> dict[str, list[int]]:
    weights = onnx.load(path).graph.initializer
    return {
        w.name: list(w.dims) for w in weights if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) == 2
    }


# -- every family ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    kind: str
    model: PreTrainedModel
    fp32: Path
    int8: Path


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A random model of two layers and its two files."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_classifier(request.param, num_hidden_layers=2)
    files = Written(request.param, model, folder / "model.onnx", folder / "model_int8.onnx")
    write_onnx(model, files.fp32)
    quantise(files.fp32, files.int8, embeddings=True)
    return files


def test_every_family_answers_as_in_torch_whatever_the_batch(written: Written) -> None:
    for rows, positions in SHAPES:
        inputs = ragged(rows, positions, written.kind)
        with torch.inference_mode():
            expected = written.model(**inputs).logits.numpy()
        np.testing.assert_allclose(run(written.fp32, inputs), expected, rtol=0, atol=2e-5)
        np.testing.assert_allclose(run(written.int8, inputs), expected, rtol=0, atol=0.3)


def test_inputs_and_output_have_the_names_that_everyone_uses(written: Written) -> None:
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if written.kind in TWO_TEXTS else [])]
    for path in (written.fp32, written.int8):
        session = onnxruntime.InferenceSession(path)
        assert [(i.name, i.shape) for i in session.get_inputs()] == [
            (n, ["batch", "sequence"]) for n in names
        ]
        assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", len(LABELS)])]


def test_int8_has_embeddings_weights_and_head_in_8_bits(written: Written) -> None:
    normalised = {"model.deberta.encoder.rel_embeddings.weight"}  # goes through a LayerNorm, never a product
    assert float_matrices(written.int8).keys() <= normalised
    assert len(float_matrices(written.fp32)) > 10


def test_a_file_says_nothing_of_the_machine_that_wrote_it(written: Written) -> None:
    for path in (written.fp32, written.int8):
        assert str(Path(torch.__file__).parent).encode() not in path.read_bytes()


def test_alberts_layers_still_share_their_weights(tmp_path: Path) -> None:
    model = tiny_classifier("albert", num_hidden_layers=3, hidden_size=128, intermediate_size=512)
    plain, small = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    write_onnx(model, plain)
    quantise(plain, small, embeddings=True)
    assert plain.stat().st_size < 1.2 * weights_bytes(model)
    assert small.stat().st_size < 0.4 * weights_bytes(model)


# -- what is kept ------------------------------------------------------------------------------------------


def colours(rows: int = 60) -> Encoded:
    """Rows of 2 to 20 tokens whose class is that of their first token: 5, 6 or 7."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 21, rows)
    starts = np.concatenate([[0], lengths.cumsum()])
    tokens = rng.integers(8, 45, starts[-1]).astype(np.int32)
    classes = rng.integers(0, 3, rows)
    tokens[starts[:-1]] = 5 + classes
    return Encoded(tokens, np.zeros_like(tokens, np.uint8), starts, classes, len(LABELS), PAD)


@pytest.fixture(scope="module")
def taught() -> PreTrainedModel:
    """A BERT that tells the colours apart."""
    model = tiny_classifier("bert", num_hidden_layers=1)
    rows = colours()
    batch = collate(rows, np.arange(len(rows)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        logits = model(input_ids=batch.tokens, attention_mask=batch.mask).logits
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model


@pytest.fixture
def student(taught: PreTrainedModel) -> PreTrainedModel:
    """The same, for a test to spoil."""
    return copy.deepcopy(taught)


Export = Callable[[PreTrainedModel], list[OnnxCard]]


@pytest.fixture
def export_to(tmp_path: Path) -> Export:
    """Export into a folder that has an ONNX file already, of another model."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_text("of another model")
    return lambda model: export_onnx(model, colours(), tmp_path, task="single_label", metrics=["accuracy"])


def test_good_files_are_kept_and_nothing_else(
    student: PreTrainedModel, export_to: Export, tmp_path: Path
) -> None:
    save_folder(student, "bert", tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    cards = export_to(student)
    assert {path.name for path in tmp_path.iterdir()} == before
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "onnx").iterdir()}
    assert sizes == {onnx_export.FILES[card.variant]: card.bytes for card in cards}
    for card in cards:
        assert (card.kept, card.reason) == (True, None)
        assert card.check is not None
        assert card.check.rows == 60
        assert (card.check.torch["accuracy"], card.check.onnx["accuracy"]) == (1, 1)
    fp32, int8 = (card.check for card in cards)
    assert fp32 is not None
    assert int8 is not None
    assert fp32.largest_difference < 1e-4 < int8.largest_difference, "8 bits cannot be that exact"
    # The folder is a model's as before, for the service and for transformers.
    assert inspect_folder(tmp_path).labels == list(LABELS)
    AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_embeddings_that_8_bits_cannot_hold_stay_in_32(
    student: PreTrainedModel, export_to: Export, tmp_path: Path
) -> None:
    with torch.no_grad():
        student.get_input_embeddings().weight[50, 0] = 1e4  # no row has it, but it stretches the range of all
    _, card = export_to(student)
    assert card.kept, card.reason
    matrices = float_matrices(tmp_path / "onnx" / "model_int8.onnx").values()
    assert [60, HIDDEN] in matrices
    assert [HIDDEN, HIDDEN] not in matrices


def test_an_int8_file_that_breaks_the_model_is_left_out(
    student: PreTrainedModel, export_to: Export, tmp_path: Path
) -> None:
    with torch.no_grad():  # the head does not look at what is as large as this, but it takes up the 8 bits
        student.base_model.encoder.layer[-1].output.LayerNorm.bias[0] = 1e4
        student.base_model.pooler.dense.weight[:, 0] = 0
    plain, small = export_to(student)
    assert (plain.kept, small.kept) == (True, False)
    assert str(small.reason).startswith("accuracy goes from 1 to")
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_a_file_whose_weights_are_not_the_models_is_refused_and_removed(
    student: PreTrainedModel, tmp_path: Path, variant: Variant
) -> None:
    reference = ask_torch(student, colours(), "single_label", ["accuracy"])
    with torch.no_grad():
        student.classifier.weight.copy_(student.classifier.weight.roll(1, 0))
    plain, small = tmp_path / "model.onnx", tmp_path / "model_int8.onnx"
    write_onnx(student, plain)
    quantise(plain, small, embeddings=True)
    path = plain if variant == "fp32" else small
    card = check(path, variant, reference)
    assert not card.kept
    assert card.reason
    assert not path.exists()


class Branching(BertForSequenceClassification):
    """What no graph can say: which way it goes depends on the numbers."""

    def forward(self, input_ids: torch.Tensor | None = None, **others: object) -> object:
        if input_ids is not None and int(input_ids.sum()) % 2:
            return super().forward(torch.flip(input_ids, [1]), **others)
        return super().forward(input_ids, **others)


def test_a_model_that_cannot_be_exported_leaves_no_file_and_says_why(
    student: PreTrainedModel, export_to: Export, tmp_path: Path
) -> None:
    plain, small = export_to(Branching(student.config))
    assert (plain.kept, small.kept) == (False, False)
    assert str(plain.reason).startswith("a model of the family bert could not be exported: ")
    assert "data-dependent" in str(plain.reason)
    assert small.reason == "it is made of the fp32 file, which is not good"
    assert list(tmp_path.iterdir()) == [], "the old file was of another model"


def test_a_file_that_cannot_be_run_is_left_out(
    student: PreTrainedModel, export_to: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_rubbish(_: Path, path: Path, *, embeddings: bool) -> None:
        path.write_bytes(b"no model")

    monkeypatch.setattr(onnx_export, "quantise", write_rubbish)
    plain, small = export_to(student)
    assert (plain.kept, small.kept) == (True, False)
    assert str(small.reason).startswith("a model of the family bert could not be exported: ")
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


def test_a_model_too_large_for_one_file_is_refused(
    student: PreTrainedModel, export_to: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_MOST_BYTES", 1000)
    plain, _ = export_to(student)
    assert "an ONNX file ends at 2 GiB" in str(plain.reason)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_fault_of_the_model(
    student: PreTrainedModel, export_to: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_export, "write_onnx", full)
    with pytest.raises(OSError, match="No space left"):
        export_to(student)
    assert [path.read_text() for path in tmp_path.rglob("*.onnx")] == ["of another model"]
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


def test_a_full_disk_that_the_quantiser_does_not_notice_is_no_fault_of_the_model_either(
    student: PreTrainedModel, export_to: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*_: object, **__: object) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        raise ValueError("Failed to find proper ai.onnx domain")

    monkeypatch.setattr(onnx_export, "quantise", torn)
    with pytest.raises(OSError, match="No space left"):
        export_to(student)


def test_a_student_that_answers_nan_is_not_judged(student: PreTrainedModel, export_to: Export) -> None:
    with torch.no_grad():
        student.classifier.bias[0] = float("nan")
    with pytest.raises(NotFiniteError):
        export_to(student)


def test_of_a_large_set_rows_from_all_over_it_are_asked(
    student: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_check, "_ROWS", 4)
    reference = ask_torch(student, colours(61), "single_label", ["accuracy"])
    assert reference.chosen.tolist() == [0, 20, 40, 60]
    assert reference.scores(reference.logits)["accuracy"] == 1


# -- the packages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["onnx", "onnx_ir", "onnxruntime", "onnxscript"])
def test_without_a_package_the_remedy_is_named_before_anything_is_done(
    student: PreTrainedModel, export_to: Export, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    refuse_missing_packages()
    monkeypatch.setitem(sys.modules, package, None)  # as Python remembers what it could not find
    assert not onnx_available()
    for refuses in (refuse_missing_packages, lambda: export_to(student)):
        with pytest.raises(RefusedError) as refused:
            refuses()
        (problem,) = refused.value.problems
        assert (problem.field, problem.remedy) == ("recipe.onnx", "pip install 'mixkd[onnx]'")


EXPORTING = """
import logging, sys, tempfile
from pathlib import Path
import numpy as np
from transformers import BertConfig, BertForSequenceClassification
from mixkd.data import Encoded
from mixkd.export.onnx import export_onnx, onnx_available

assert onnx_available()
print(sorted({"onnx", "onnx_ir", "onnxruntime", "onnxscript"} & set(sys.modules)))
sizes = {"vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
model = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32, num_labels=2))
zeros = np.zeros(8)
rows = Encoded(zeros.astype(np.int32), zeros.astype(np.uint8), np.arange(0, 9, 4), np.array([0, 1]), 2, 0)
with tempfile.TemporaryDirectory() as folder:
    cards = export_onnx(model, rows, Path(folder), task="single_label", metrics=["accuracy"])
print([card.variant for card in cards if card.kept], logging.root.handlers)
"""


def test_asking_loads_no_package_and_exporting_writes_on_nobodys_terminal() -> None:
    run = subprocess.run([sys.executable, "-c", EXPORTING], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("[]\n['fp32', 'int8'] []\n", "")
