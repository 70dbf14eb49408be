"""A student as ONNX, in float32 and in 8-bit integers; each is kept only if it answers as torch does."""

import copy
import errno
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mixkd.contract.data_spec import MetricName, Task
from mixkd.contract.families import family
from mixkd.contract.problems import Problem, RefusedError
from mixkd.data import Encoded
from mixkd.export.folder import replacing, weights_bytes
from mixkd.export.onnx_check import OnnxCard, Reference, Variant, ask_torch, check

FILES: Mapping[Variant, str] = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
"""In the folder `onnx` of the model's: where Optimum and transformers.js look."""

_PACKAGES = ("onnx", "onnx_ir", "onnxruntime", "onnxscript")
_MOST_BYTES = 2**31 - 2**24  # of weights: a protobuf ends at 2 GiB, and the graph needs room too


def onnx_available() -> bool:
    """Whether the packages of the extra `onnx` are installed. Loads none of them."""
    return all(find_spec(name) is not None for name in _PACKAGES)


def refuse_missing_packages() -> None:
    """Find out before a job starts what would fail at its end.

    Raises:
        RefusedError: ONNX is asked for where its packages are missing.
    """
    if not onnx_available():
        raise RefusedError(
            Problem("recipe.onnx", "the packages that write and check ONNX are not installed", True,
                    "pip install 'mixkd[onnx]'")
        )  # fmt: skip


def export_onnx(
    student: PreTrainedModel,
    rows: Encoded,
    folder: Path,
    *,
    task: Task,
    metrics: Sequence[MetricName],
) -> list[OnnxCard]:
    """Put the folder `onnx` into a model's folder: what lay there is replaced, whole or not at all.

    A file that cannot be written, or breaks the model, is left out, and its card says why; without a good
    file there is no folder. The student is put into evaluation mode and otherwise left as it is.

    Args:
        rows: labelled rows to check on, tokenised for the student, scores in the units of its answers.
        metrics: the first one decides about int8.

    Raises:
        RefusedError: the packages are missing.
        NotFiniteError: the student itself answers with NaN or infinity.
    """
    refuse_missing_packages()
    model = student if student.device.type == "cpu" else copy.deepcopy(student).cpu()
    reference = ask_torch(model, rows, task, metrics)
    target = folder / "onnx"
    with replacing(target) as scratch:
        plain = _attempt("fp32", model, scratch, lambda: _export_fp32(model, scratch, reference))
        if plain.kept:
            small = _attempt("int8", model, scratch, lambda: _export_int8(scratch, reference))
        else:
            small = OnnxCard(
                variant="int8", kept=False, reason="it is made of the fp32 file, which is not good"
            )
        kept = {FILES[card.variant] for card in (plain, small) if card.kept}
        for path in scratch.iterdir():
            if path.name not in kept:
                path.unlink()
    if not kept:
        target.rmdir()
    return [plain, small]


def _attempt(
    variant: Variant, model: PreTrainedModel, scratch: Path, export: Callable[[], OnnxCard]
) -> OnnxCard:
    """An export's card; if it failed, one that says why."""
    try:
        return export()
    except (OSError, MemoryError):
        raise  # this says something about the machine, not about the model
    except Exception as error:  # of four libraries; the student is good without ONNX, and must not be lost
        # ONNX's C++ writes what fits onto a full disk, and then cannot read it.
        if shutil.disk_usage(scratch).free < weights_bytes(model):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        root: BaseException = error
        while root.__cause__ is not None:  # the exporter wraps what it met in advice of its own
            root = root.__cause__
        said = f"{type(root).__name__}: {str(root).strip().partition(chr(10))[0]}"
        problem = f"a model of the family {model.config.model_type} could not be exported: {said}"
        return OnnxCard(variant=variant, kept=False, reason=problem)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' advice: what they made is checked, and standard error is the user's."""
    disabled, silent = logging.root.manager.disable, logging.NullHandler()
    logging.root.addHandler(silent)  # the quantiser's logging.warning() would set up logging to be heard
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(silent)


# -- float32 -----------------------------------------------------------------------------------------------


def _export_fp32(model: PreTrainedModel, folder: Path, reference: Reference) -> OnnxCard:
    size = weights_bytes(model)
    if size > _MOST_BYTES:
        problem = f"its weights are {size} bytes, and an ONNX file ends at 2 GiB"
        return OnnxCard(variant="fp32", kept=False, reason=problem)
    path = folder / FILES["fp32"]
    write_onnx(model, path)
    return check(path, "fp32", reference)


@_quiet()
def write_onnx(model: PreTrainedModel, path: Path) -> None:
    """Write a model on the CPU as one ONNX file: token numbers (B, T) in, `logits` (B, C) out, any B and T.

    Raises:
        torch.onnx.OnnxExporterError: the exporter cannot express the model.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript.optimizer import fold_constants

    network = _Logits(model).eval()
    inputs = _example(model)
    program = torch.onnx.export(
        network,
        kwargs=inputs,
        dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in inputs},
        output_names=["logits"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    # ALBERT: a weight's transposes in many layers were many when the exporter folded, and only then made one.
    # A transpose that is left hides the weight from the quantiser.
    fold_constants(program.model)
    ClearMetadataAndDocStringPass()(program.model)  # stack traces with this machine's paths, for each node
    program.save(path, external_data=False)


class _Logits(torch.nn.Module):
    """A classifier whose one output is its logits, whatever else its config asks for."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **segments)
        logits: Tensor = output.logits
        return logits


def _example(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two rows to trace, one with padding. No two inputs are one tensor: they would be one of the graph's."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    if family(model.config.model_type).segment_ids and model.config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.zeros_like(mask)
    return inputs


# -- 8-bit integers ----------------------------------------------------------------------------------------


def _export_int8(folder: Path, reference: Reference) -> OnnxCard:
    """With the embeddings, which are most of a small student, in 8 bits too; if that breaks it, without."""
    path = folder / FILES["int8"]
    quantise(folder / FILES["fp32"], path, embeddings=True)
    card = check(path, "int8", reference)
    if not card.kept:
        quantise(folder / FILES["fp32"], path, embeddings=False)
        card = check(path, "int8", reference)
    return card


@_quiet()
def quantise(source: Path, path: Path, *, embeddings: bool) -> None:
    """Write an ONNX file's weights as 8-bit integers; what they meet is quantised as it comes ("dynamic").

    Every output of a matrix has a scale of its own. Weights use 7 of their 8 bits: x86 processors without
    VNNI add products in 16 bits, which 8 would overflow, and the file is for other machines than this one.
    """
    from onnxruntime.quantization import (  # type: ignore[import-untyped]  # it has no types
        QuantType,
        quantize_dynamic,
    )

    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=["MatMul", "Gather"] if embeddings else ["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
