"""What a recipe leaves to the machine, chosen once for a run and kept with it.

`resolved.json` is the run with every `auto` replaced: each attempt reads it again, so that one that goes on
computes as the first one did, and it reproduces the run when given to `python -m mixkd run`. It lies beside
the checkpoints, and comes to lie in `DIR` with the student and the report: what is there belongs together.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from mixkd.atomic import write_text
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.spec import Attention, Precision, RunSpec, RuntimeSpec
from mixkd.contract.work import RESOLVED, WORK

_OPEN = ("precision", "attention", "threads")
_NEUTRAL = ("checkpoint_seconds", "keep_checkpoints")  # no student depends on them


def resolve(
    spec: RunSpec, earlier: RunSpec | None, device: torch.device, teacher: PreTrainedModel
) -> RunSpec:
    """The run without anything left open: as an earlier attempt chose, or chosen now.

    The teacher computes in the chosen way from here on.

    Raises:
        RefusedError: the recipe asks for an attention or a precision that the teacher or the device lacks.
    """
    if earlier is not None:
        spec = _with_runtime(spec, **{name: getattr(earlier.recipe.runtime, name) for name in _OPEN})
    return _with_runtime(spec, **dict(choose(spec.recipe.runtime, device, teacher)))


def earlier_attempt(folder: Path, spec: RunSpec) -> RunSpec | None:
    """What an earlier attempt at this run in `folder` chose; None: there was none.

    Raises:
        RefusedError: another run left unfinished work there.
    """
    earlier = _read(folder / WORK / RESOLVED) or _read(folder / RESOLVED)
    if earlier is not None and _is_choice_for(earlier, spec):
        return earlier
    if unfinished(folder):  # of another run, or of one that no file describes any more
        raise RefusedError(
            Problem("dir", "it holds the unfinished work of another run", folder.name,
                    "name another folder, or start over in this one with --fresh")
        )  # fmt: skip
    return None


def keep(chosen: RunSpec, folder: Path) -> None:
    """Write a resolved run down."""
    write_text(folder / RESOLVED, chosen.model_dump_json(indent=2) + "\n")


def unfinished(folder: Path) -> bool:
    """Whether an attempt that has not ended left its work."""
    return any((folder / WORK).glob("[!.]*"))


def choose(asked: RuntimeSpec, device: torch.device, teacher: PreTrainedModel) -> RuntimeSpec:
    """Replace every `auto` and null, and let the teacher compute in that way.

    Raises:
        RefusedError: an attention or a precision that is not to be had.
    """
    return asked.model_copy(
        update={
            "precision": _precision(asked, device),
            "attention": _attention(asked, teacher),
            "threads": asked.threads or torch.get_num_threads(),
        }
    )


def _precision(asked: RuntimeSpec, device: torch.device) -> Precision:
    if asked.precision == "fp16" and device.type != "cuda":
        raise RefusedError(
            Problem("recipe.runtime.precision", "fp16 needs a GPU", "fp16", "use `fp32`, `bf16` or `auto`")
        )
    if asked.precision != "auto":
        return asked.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _attention(asked: RuntimeSpec, teacher: PreTrainedModel) -> Attention:
    """What the library takes for this teacher, unless the recipe names one that it can take."""
    if asked.attention != "auto":
        teacher.set_attn_implementation(asked.attention)
    taken = cast("Attention", teacher.config._attn_implementation)
    if asked.attention not in ("auto", taken):  # the library says nothing, and takes another
        raise RefusedError(
            Problem("recipe.runtime.attention", f"{teacher.config.model_type} has no such attention",
                    asked.attention, f"use `auto` or `{taken}`")
        )  # fmt: skip
    return taken


def _read(path: Path) -> RunSpec | None:
    try:
        return RunSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # of another release: nothing to go on with
        return None


def _is_choice_for(chosen: RunSpec, asked: RunSpec) -> bool:
    """Whether `chosen` is `asked` with its open points filled in, and nothing else."""
    runtime = asked.recipe.runtime
    opened = {name: None if name == "threads" else "auto" for name in _OPEN}
    free = [name for name in _OPEN if getattr(runtime, name) == opened[name]]
    return _with_runtime(chosen, **{name: getattr(runtime, name) for name in (*free, *_NEUTRAL)}) == asked


def _with_runtime(spec: RunSpec, **changes: object) -> RunSpec:
    runtime = spec.recipe.runtime.model_copy(update=changes)
    return spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"runtime": runtime})})


@contextmanager
def computing(runtime: RuntimeSpec) -> Iterator[None]:
    """Within the block torch computes as a resolved runtime says."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    assert runtime.threads is not None
    torch.set_num_threads(runtime.threads)
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
