"""Inspects a model folder without loading it: JSON files and safetensors headers only.

No tensor is read, nothing pickled is ever opened, and nothing in the folder is run.
"""

import difflib
import json
import math
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mixkd.contract.families import FAMILIES, Family
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.spec import Strict

MAX_JSON_BYTES = 16 << 20
MAX_ENTRIES = 10_000  # files and folders; a model has a few dozen

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")

_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl", ".pickle", ".joblib", ".npz", ".npy"}
_CODE = {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"}
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")

# Bits per element, as the safetensors format defines them.
_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "C64": 64,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
}
_TRAINED = {"F64", "F32", "F16", "BF16"}

# Fields of config.json that make the loading library fetch or run something else than this folder's weights.
_FORBIDDEN = {
    "auto_map": "it makes loading the model run code of its own",
    "custom_pipelines": "it makes loading the model run code of its own",
    "quantization_config": "quantised weights cannot be trained",
    "transformers_weights": "it names other weights than the folder's own",
    "attn_implementation": "it can make loading the model fetch code",
    "_attn_implementation": "it can make loading the model fetch code",
    "_attn_implementation_internal": "it can make loading the model fetch code",
}


class ModelInfo(Strict):
    """What a folder holds. `labels` is None for an encoder without a classification head.

    `parameters` counts every number in the weights; `max_positions` is how many tokens fit.
    """

    family: str
    layers: int
    hidden_size: int
    vocab_size: int
    parameters: int
    max_positions: int
    labels: list[str] | None


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


def wanted(path: str) -> bool:
    """Whether a model's file, named relative to its folder, is one that loading it needs."""
    return path in {"config.json", WEIGHTS, INDEX, *TOKENIZERS, *TOKENIZER_EXTRAS} or (
        _SHARD.fullmatch(path) is not None
    )


def refuse_unusable_weights(names: Collection[str]) -> None:
    """Judge a model's weights by the names of its files alone.

    Raises:
        RefusedError: there are no safetensors among them.
    """
    if WEIGHTS in names or INDEX in names:
        return
    pickled = sorted(name for name in names if PurePosixPath(name).suffix.lower() in _PICKLED)
    if pickled:
        raise _refuse(
            pickled[0],
            "the weights are in a format that can run code when it is opened; it was not opened",
            pickled[:20],
            "convert them to safetensors: load the model where you trust it and call `save_pretrained`",
        )
    raise _refuse(WEIGHTS, "the folder has no weights", None, "add model.safetensors")


def inspect_folder(folder: Path) -> ModelInfo:
    """Decide whether a folder is a model we can use, and say what it is.

    Raises:
        RefusedError: with the fields `folder` or the name of a file in it.
    """
    try:
        return _inspect(folder)
    except OSError:  # no permission, or a file that went away meanwhile
        raise _refuse("folder", "it cannot be read", None, "make every file in it readable") from None


def _inspect(folder: Path) -> ModelInfo:
    files = _files(folder)
    _refuse_code(files)
    config = _config(folder, files)
    family = _family(config)
    tensors = _tensors(folder, files)
    _refuse_tokenizer(folder, files)
    layers = _number(config, family.layers_key)
    vocab_size = _number(config, "vocab_size")
    _check_weights(config, family, layers, vocab_size, tensors)
    positions = _number(config, "max_position_embeddings")
    if family.positions_after_padding:
        padding = config.get("pad_token_id", family.pad_token_id)
        positions -= 1 + (padding if isinstance(padding, int) else family.pad_token_id)
    return ModelInfo(
        family=family.model_type,
        layers=layers,
        hidden_size=_number(config, family.hidden_key),
        vocab_size=vocab_size,
        parameters=sum(math.prod(t.shape) for t in tensors.values() if t.dtype in _TRAINED),
        max_positions=positions,
        labels=_labels(config, family, tensors),
    )


# -- the folder ------------------------------------------------------------------------------------------


def _refuse(field: str, problem: str, value: object = None, remedy: str | None = None) -> RefusedError:
    """`remedy`: None for a damaged file, for which there is but one."""
    return RefusedError(Problem(field, problem, value, remedy or "save or download the model once more"))


def _files(folder: Path) -> dict[str, int]:
    """Every regular file below a folder, by relative path, with its size."""
    root = folder.resolve()
    if not root.is_dir():
        raise _refuse("folder", "there is no such folder", None, "name a folder with config.json in it")
    files: dict[str, int] = {}
    for count, path in enumerate(_walk(root)):
        name = path.relative_to(root).as_posix()
        if count >= MAX_ENTRIES:
            raise _refuse("folder", f"it has more than {MAX_ENTRIES} entries", None, "name a model's folder")
        try:
            target = path.resolve(strict=True)
            status = target.stat()
        except (OSError, RuntimeError):  # a dangling link, a loop of links
            raise _refuse(name, "it cannot be read", None, "remove it or put the file in its place") from None
        if not target.is_relative_to(root):
            raise _refuse(name, "it is a link out of the folder", None, "put the file itself in its place")
        if stat.S_ISREG(status.st_mode):
            files[name] = status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            raise _refuse(name, "it is neither a file nor a folder", None, "remove it")
    return files


def _walk(root: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(root, followlinks=False):
        for name in sorted(folders + names):
            yield Path(here) / name


def _refuse_code(files: Mapping[str, int]) -> None:
    code = sorted(name for name in files if PurePosixPath(name).suffix.lower() in _CODE)
    if code:
        raise _refuse(
            code[0],
            "a model with code of its own is not accepted",
            code[:20],
            "use a model of a built-in architecture and leave the code out",
        )


def _json(folder: Path, files: Mapping[str, int], name: str) -> dict[str, object]:
    if files[name] > MAX_JSON_BYTES:
        raise _refuse(name, f"it is larger than {MAX_JSON_BYTES} bytes", files[name])
    with (folder / name).open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    return _json_object(data, name)


def _json_object(data: bytes, name: str) -> dict[str, object]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _refuse(name, "it is not valid JSON", None, "save the model again") from None
    if not isinstance(value, dict):
        raise _refuse(name, "it is not a JSON object", None, "save the model again")
    return value


# -- config.json and the tokenizer -----------------------------------------------------------------------


def _config(folder: Path, files: Mapping[str, int]) -> dict[str, object]:
    if "config.json" not in files:
        raise _refuse("config.json", "the folder has none", None, "save the model with `save_pretrained`")
    config = _json(folder, files, "config.json")
    _refuse_fields(config, "config.json")
    return config


def _refuse_fields(content: Mapping[str, object], name: str) -> None:
    for key, reason in _FORBIDDEN.items():
        if content.get(key) is not None:
            raise _refuse(
                name, f"it contains `{key}`: {reason}", key, "use a model of a built-in architecture"
            )


def _family(config: Mapping[str, object]) -> Family:
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    near = difflib.get_close_matches(str(model_type), FAMILIES, n=1)
    raise _refuse(
        "config.json",
        "its `model_type` is not an architecture that this service knows",
        str(model_type)[:100] if model_type is not None else None,
        f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(FAMILIES)}",
    )


def _number(config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise _refuse("config.json", f"`{key}` is not a positive whole number", _short(value))
    return value


def _short(value: object) -> str | None:
    return None if value is None else repr(value)[:100]


def _refuse_tokenizer(folder: Path, files: Mapping[str, int]) -> None:
    if not any(name in files for name in TOKENIZERS):
        raise _refuse(
            "tokenizer.json",
            "the folder has no tokenizer",
            None,
            f"add its files: {', '.join(TOKENIZERS)} as the model has them",
        )
    if "tokenizer_config.json" in files:
        _refuse_fields(_json(folder, files, "tokenizer_config.json"), "tokenizer_config.json")


def _labels(config: Mapping[str, object], family: Family, tensors: Mapping[str, Tensor]) -> list[str] | None:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not any(
        isinstance(name, str) and name.endswith("ForSequenceClassification") for name in architectures
    ):
        return None
    names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # left out where it is the default
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise _refuse("config.json", "`id2label` is not a table of names", _short(names))
    labels = [names.get(str(number)) for number in range(len(names))]
    if not labels or None in labels or len(set(labels)) != len(labels):
        raise _refuse("config.json", "`id2label` does not name each output from 0 on once", _short(names))
    head = tensors.get(family.head_weight)
    if head is None or not head.shape or head.shape[0] != len(labels):
        has = "no classification head" if head is None else f"a head of shape {list(head.shape)}"
        raise _refuse(
            WEIGHTS, f"config.json names {len(labels)} labels, but the weights have {has}", len(labels)
        )
    return [str(label) for label in labels]


# -- the weights -----------------------------------------------------------------------------------------


def _tensors(folder: Path, files: Mapping[str, int]) -> dict[str, Tensor]:
    refuse_unusable_weights(files)
    if WEIGHTS in files:
        return read_safetensors_header(folder / WEIGHTS)
    return _sharded(folder, files)


def _sharded(folder: Path, files: Mapping[str, int]) -> dict[str, Tensor]:
    weight_map = _json(folder, files, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _refuse(INDEX, "`weight_map` is not a table of files", None, "save the model again")
    shards = set(weight_map.values())
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or shard not in files:
            raise _refuse(INDEX, "it names a shard that is not there", _short(shard), "add the missing file")
        for name, tensor in read_safetensors_header(folder / shard).items():
            if weight_map.get(name) != shard:
                raise _refuse(INDEX, "it does not say what is in its shards", shard, "save the model again")
            tensors[name] = tensor
    if tensors.keys() != weight_map.keys():
        raise _refuse(INDEX, "it names tensors that its shards do not have", None, "save the model again")
    return tensors


def read_safetensors_header(path: Path) -> dict[str, Tensor]:
    """Names, types and shapes of the tensors in a safetensors file; the tensors are not read.

    The format: 8 bytes, the header's length N, little-endian; N bytes of JSON; the tensors, without gaps.

    Raises:
        RefusedError: the file is not of this form; its field is the file's name.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_JSON_BYTES, size - 8):
            raise _refuse(path.name, "it is not a safetensors file, or it is cut short", size)
        header = _json_object(file.read(length), path.name)
    header.pop("__metadata__", None)
    tensors: dict[str, Tensor] = {}
    spans = []
    for name, entry in header.items():
        tensors[name], start, end = _tensor(path.name, name, entry)
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise _refuse(path.name, "its tensors overlap or have gaps between them", None)
        at = end
    if at != size - 8 - length:
        raise _refuse(path.name, "it is longer or shorter than its header says", size)
    return tensors


def _tensor(file: str, name: str, entry: object) -> tuple[Tensor, int, int]:
    broken = _refuse(file, "its header has a broken entry", name[:100], "save the model again")
    if not isinstance(entry, dict):
        raise broken
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS or not _sizes(shape) or not _sizes(offsets):
        raise broken
    assert isinstance(shape, list)
    assert isinstance(offsets, list)
    if len(offsets) != 2 or len(shape) > 8:
        raise broken
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise broken
    return Tensor(dtype, tuple(shape)), start, end


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in value
    )


def _check_weights(
    config: Mapping[str, object],
    family: Family,
    layers: int,
    vocab_size: int,
    tensors: Mapping[str, Tensor],
) -> None:
    """The weights must hold what config.json says: what is missing would be filled in at random."""
    prefix = rf"(?:{family.base_prefix}\.)?"
    in_layers = re.compile(rf"{prefix}{re.escape(family.encoder_layers)}\.(\d+)\.")
    there = {int(match[1]) for name in tensors if (match := in_layers.match(name))}
    if there != set(range(layers)):
        raise _refuse(
            WEIGHTS,
            f"config.json says {layers} layers, but the weights have {len(there)}",
            layers,
            "send the weights that belong to this config.json",
        )
    table = f"{family.word_embeddings}.weight"
    embeddings = tensors.get(f"{family.base_prefix}.{table}") or tensors.get(table)
    expected = (vocab_size, _number(config, family.embedding_key))
    if embeddings is None or embeddings.shape != expected:
        raise _refuse(
            WEIGHTS,
            f"the table of word embeddings is not of the shape {list(expected)} that config.json says",
            None if embeddings is None else list(embeddings.shape),
            "send the weights that belong to this config.json",
        )
    odd = sorted(n for n, t in tensors.items() if t.dtype.startswith(("F8", "C64")))
    if odd:
        raise _refuse(WEIGHTS, f"it has tensors of a type that cannot be trained: {odd[0][:100]}", odd[:20])
