"""Inspects a model folder without loading it: JSON files and safetensors headers only.

No tensor is read, nothing pickled is ever opened, and nothing in the folder is run.
"""

import difflib
import math
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from mixkd.contract.families import FAMILIES, Family
from mixkd.contract.json_files import read_json, refuse
from mixkd.contract.safetensors_header import Tensor, read_safetensors_header
from mixkd.contract.strict import Strict
from mixkd.contract.text import storable
from mixkd.contract.tokenizer_files import EXTRAS, TOKENIZERS, refuse_class, refuse_tokenizer

MAX_ENTRIES = 10_000  # files and folders; a model has a few dozen

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl", ".pickle", ".joblib", ".npz", ".npy"}
_CODE = {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"}
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")

_TRAINED = {"F64", "F32", "F16", "BF16"}

# Fields of config.json that make the loading library fetch or run something else than this folder's weights,
# or a model that we cannot take apart.
_FORBIDDEN = {
    "auto_map": "it makes loading the model run code of its own",
    "custom_pipelines": "it makes loading the model run code of its own",
    "gguf_file": "it names other weights than the folder's own",
    "quantization_config": "quantised weights cannot be trained",
    "transformers_weights": "it names other weights than the folder's own",
    "attn_implementation": "it can make loading the model fetch code",
    "_attn_implementation": "it can make loading the model fetch code",
    "_attn_implementation_internal": "it can make loading the model fetch code",
    "per_layer_config": "no student can be made of layers that are not alike",
}


class ModelInfo(Strict):
    """What a folder holds. `labels` is None for an encoder without a classification head; one is a score's.

    `parameters` counts every number in the weights; `max_positions` is how many tokens fit.
    """

    family: str
    layers: int
    hidden_size: int
    vocab_size: int
    parameters: int
    max_positions: int
    labels: list[str] | None


def wanted(path: str) -> bool:
    """Whether a model's file, named relative to its folder, is one that loading it needs."""
    return path in {"config.json", WEIGHTS, INDEX, *TOKENIZERS, *EXTRAS} or (
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
        raise refuse(
            pickled[0],
            "the weights are in a format that can run code when it is opened; it was not opened",
            pickled[:20],
            "convert them to safetensors: load the model where you trust it and call `save_pretrained`",
        )
    raise refuse(WEIGHTS, "the folder has no weights", None, "add model.safetensors")


def inspect_folder(folder: Path) -> ModelInfo:
    """Decide whether a folder is a model we can use, and say what it is.

    Raises:
        RefusedError: with the fields `folder` or the name of a file in it.
    """
    try:
        return _inspect(folder)
    except OSError:  # no permission, or a file that went away meanwhile
        raise refuse("folder", "it cannot be read", None, "make every file in it readable") from None


def _inspect(folder: Path) -> ModelInfo:
    files = _files(folder)
    _refuse_code(files)
    config = _config(folder, files)
    family = _family(config)
    tensors = _tensors(folder, files)
    refuse_tokenizer(folder, files)
    layers = _number(config, family.layers_key)
    vocab_size = _number(config, "vocab_size")
    _check_weights(config, family, layers, vocab_size, tensors)
    positions = _number(config, "max_position_embeddings")
    _check_positions(family, positions, tensors)
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


def _files(folder: Path) -> dict[str, int]:
    """Every regular file below a folder, by relative path, with its size."""
    try:
        root = folder.resolve()
        there = root.is_dir()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        there = False
    if not there:
        raise refuse("folder", "there is no such folder", None, "name a folder with config.json in it")
    files: dict[str, int] = {}
    for count, path in enumerate(_walk(root)):
        name = path.relative_to(root).as_posix()
        if count >= MAX_ENTRIES:
            raise refuse("folder", f"it has more than {MAX_ENTRIES} entries", None, "name a model's folder")
        try:
            target = path.resolve(strict=True)
            status = target.stat()
        except (OSError, RuntimeError):  # a dangling link, a loop of links
            raise refuse(name, "it cannot be read", None, "remove it or put the file in its place") from None
        if not target.is_relative_to(root) and not _is_blob(target, root):
            raise refuse(name, "it is a link out of the folder", None, "put the file itself in its place")
        if stat.S_ISREG(status.st_mode):
            files[name] = status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            raise refuse(name, "it is neither a file nor a folder", None, "remove it")
    return files


def _is_blob(target: Path, root: Path) -> bool:
    """Whether a file is the hub client's own: `models--X/snapshots/Y` has links into `models--X/blobs`.

    Nobody who sends a model's files decides where its folder lies, so that no upload can look like this.
    """
    cached = root.parent.parent
    return (
        root.parent.name == "snapshots"
        and cached.name.startswith("models--")
        and target.parent == cached / "blobs"
    )


def _walk(root: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(root, followlinks=False):
        for name in sorted(folders + names):
            yield Path(here) / name


def _refuse_code(files: Mapping[str, int]) -> None:
    code = sorted(name for name in files if PurePosixPath(name).suffix.lower() in _CODE)
    if code:
        raise refuse(
            code[0],
            "a model with code of its own is not accepted",
            code[:20],
            "use a model of a built-in architecture and leave the code out",
        )


# -- config.json and the tokenizer -----------------------------------------------------------------------


def _config(folder: Path, files: Mapping[str, int]) -> dict[str, object]:
    if "config.json" not in files:
        raise refuse("config.json", "the folder has none", None, "save the model with `save_pretrained`")
    config = read_json(folder, files, "config.json")
    _refuse_fields(config, "config.json")
    refuse_class(config, "config.json")
    return config


def _refuse_fields(content: Mapping[str, object], name: str) -> None:
    for key, reason in _FORBIDDEN.items():
        if content.get(key) is not None:
            raise refuse(
                name, f"it contains `{key}`: {reason}", key, "use a model of a built-in architecture"
            )


def _family(config: Mapping[str, object]) -> Family:
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    near = difflib.get_close_matches(str(model_type), FAMILIES, n=1)
    raise refuse(
        "config.json",
        "its `model_type` is not an architecture that this service knows",
        str(model_type)[:100] if model_type is not None else None,
        f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(FAMILIES)}",
    )


def _number(config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise refuse("config.json", f"`{key}` is not a positive whole number", _short(value))
    return value


def _short(value: object) -> str | None:
    return None if value is None else repr(value)[:100]


def _labels(config: Mapping[str, object], family: Family, tensors: Mapping[str, Tensor]) -> list[str] | None:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not any(
        isinstance(name, str) and name.endswith("ForSequenceClassification") for name in architectures
    ):
        return None
    names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # left out where it is the default
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise refuse("config.json", "`id2label` is not a table of names", _short(names))
    labels = [names.get(str(number)) for number in range(len(names))]
    if not labels or None in labels or len(set(labels)) != len(labels):
        raise refuse("config.json", "`id2label` does not name each output from 0 on once", _short(names))
    if not all(isinstance(label, str) and storable(label) for label in labels):
        raise refuse("config.json", "`id2label` has a name that is no valid text", _short(names))
    head = tensors.get(family.head_weight)
    if head is None or not head.shape or head.shape[0] != len(labels):
        has = "no classification head" if head is None else f"a head of shape {list(head.shape)}"
        raise refuse(
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
    weight_map = read_json(folder, files, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise refuse(INDEX, "`weight_map` is not a table of files", None, "save the model again")
    shards = sorted(set(weight_map.values()))
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if not _SHARD.fullmatch(shard) or shard not in files:
            raise refuse(INDEX, "it names a shard that is not there", _short(shard), "add the missing file")
        for name, tensor in read_safetensors_header(folder / shard).items():
            if weight_map.get(name) != shard:
                raise refuse(INDEX, "it does not say what is in its shards", shard, "save the model again")
            tensors[name] = tensor
    if tensors.keys() != weight_map.keys():
        raise refuse(INDEX, "it names tensors that its shards do not have", None, "save the model again")
    return tensors


def _check_weights(
    config: Mapping[str, object],
    family: Family,
    layers: int,
    vocab_size: int,
    tensors: Mapping[str, Tensor],
) -> None:
    """The weights must hold what config.json says: what is missing would be filled in at random."""
    prefix = rf"(?:{family.base_prefix}\.)?"
    in_layers = re.compile(rf"{prefix}{re.escape(family.encoder_layers)}\.(\d{{1,9}})\.")
    there = {int(match[1]) for name in tensors if (match := in_layers.match(name))}
    kept = _layers_kept(config, family, layers)
    if len(there) != kept or max(there, default=-1) >= kept:  # no range(kept): it may be two billion
        raise refuse(
            WEIGHTS,
            f"config.json says {kept} layers, but the weights have {len(there)}",
            kept,
            "send the weights that belong to this config.json",
        )
    table = f"{family.word_embeddings}.weight"
    embeddings = tensors.get(f"{family.base_prefix}.{table}") or tensors.get(table)
    width = next((key for key in family.embedding_keys if key in config), family.embedding_keys[-1])
    expected = (vocab_size, _number(config, width))
    if embeddings is None or embeddings.shape != expected:
        raise refuse(
            WEIGHTS,
            f"the table of word embeddings is not of the shape {list(expected)} that config.json says",
            None if embeddings is None else list(embeddings.shape),
            "send the weights that belong to this config.json",
        )
    odd = sorted(n for n, t in tensors.items() if t.dtype.startswith(("F8", "C64")))
    if odd:
        raise refuse(WEIGHTS, f"it has tensors of a type that cannot be trained: {odd[0][:100]}", odd[:20])


def _layers_kept(config: Mapping[str, object], family: Family, layers: int) -> int:
    """How many layers the weights hold: all, or the one that ALBERT applies again and again.

    ALBERT could have groups of layers, each with weights of its own; none of the published ones has.
    """
    if not family.shared_layers:
        return layers
    groups = config.get("num_hidden_groups", 1)
    if groups != 1:
        raise refuse("config.json", "`num_hidden_groups` is not 1", _short(groups), "use a model with one")
    return 1


def _check_positions(family: Family, positions: int, tensors: Mapping[str, Tensor]) -> None:
    """Where positions are a table of weights, it must have as many rows as config.json says."""
    name = f"{family.embeddings}.position_embeddings.weight"
    table = tensors.get(f"{family.base_prefix}.{name}") or tensors.get(name)
    if table is not None and table.shape[:1] != (positions,):
        raise refuse(
            WEIGHTS,
            f"config.json says {positions} positions, but the table of positions has the shape "
            f"{list(table.shape)}",
            positions,
            "send the weights that belong to this config.json",
        )
