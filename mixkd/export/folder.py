"""A model as a folder that plain transformers loads."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokeniser's files; the folder appears whole or not at all.

    A folder that lies there already is replaced.
    """
    with replacing(folder) as scratch:
        write(model, tokenizer, scratch)


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokeniser's files into an empty folder."""
    model.save_pretrained(folder)
    # How it was loaded here is nothing that its next user should inherit.
    for note in ("local_files_only", "is_local", "name_or_path"):
        tokenizer.init_kwargs.pop(note, None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors makes its file unreadable to all but its owner


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A scratch folder beside `folder` that takes its place if the block ends well."""
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    old = scratch.with_name(f"{scratch.name}-old")
    try:
        yield scratch
        scratch.chmod(0o755)
        if folder.exists():
            folder.rename(old)
        scratch.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)  # better the one that was there than none
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


_NAMES = {torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}  # of buffers


def weights_bytes(model: PreTrainedModel) -> int:
    """The size of the model.safetensors file that `export` writes for a model."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(model.state_dict().items()):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES.get(tensor.dtype, "F32"),
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // 8) * 8 + end  # the header's length, the header padded to 8 bytes, the numbers
