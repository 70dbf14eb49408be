"""A model's tokenizer files, judged before any of them is used.

What stands in tokenizer_config.json and special_tokens_map.json becomes arguments of the tokenizer's class,
and some of those are names of files: a path of the machine would be read, and would leave with the student.
"""

from collections.abc import Mapping
from pathlib import Path

from mixkd.contract.json_files import read_json, refuse

TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",  # of XLM-R
    "spiece.model",  # of ALBERT
    "spm.model",  # of DeBERTa
)
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
EXTRAS = (CONFIG, SPECIAL_TOKENS, "added_tokens.json", "merges.txt")

_BUILT_IN = (
    "Albert",
    "Bert",
    "DebertaV2",
    "DistilBert",
    "Electra",
    "MPNet",
    "PreTrained",
    "Roberta",
    "XLMRoberta",
)
_CLASSES = {f"{name}Tokenizer{fast}" for name in _BUILT_IN for fast in ("", "Fast")} | {"TokenizersBackend"}
_CONTENT = {"vocab", "merges", "init_inputs"}  # each may be the name of a file
_HARMLESS = {"special_tokens_map_file", "tokenizer_file"}  # old files carry them; the library reads its own
_LISTS = {"additional_special_tokens", "extra_special_tokens"}


def refuse_tokenizer(folder: Path, files: Mapping[str, int]) -> None:
    """Judge a folder's tokenizer.

    Args:
        files: the folder's files with their sizes in bytes.

    Raises:
        RefusedError: there is none, or it names other files than the folder's own.
    """
    if not any(name in files for name in TOKENIZERS):
        raise refuse(
            "tokenizer.json",
            "the folder has no tokenizer",
            None,
            f"add its files: {', '.join(TOKENIZERS)} as the model has them",
        )
    if CONFIG in files:
        config = read_json(folder, files, CONFIG)
        refuse_class(config, CONFIG)
        _refuse_keys(
            CONFIG,
            [
                key
                for key, value in config.items()
                if value and (key in _CONTENT or (key.endswith("_file") and key not in _HARMLESS))
            ],
        )
    if SPECIAL_TOKENS in files:
        names = read_json(folder, files, SPECIAL_TOKENS)
        _refuse_keys(SPECIAL_TOKENS, [k for k in names if not k.endswith("_token") and k not in _LISTS])


def refuse_class(config: Mapping[str, object], name: str) -> None:
    """Accept only the tokenizer classes of the families that we know.

    Raises:
        RefusedError: `tokenizer_class` in the file `name` is another, or it names code of the folder's own.
    """
    if config.get("auto_map") is not None:
        raise refuse(name, "it contains `auto_map`: it makes loading the model run code of its own",
                     "auto_map", "use a built-in tokenizer")  # fmt: skip
    found = config.get("tokenizer_class")
    if found is not None and found not in _CLASSES:
        raise refuse(
            name,
            "its `tokenizer_class` is not one that this service knows",
            str(found)[:100],
            f"save the tokenizer as one of {', '.join(sorted(_CLASSES))}",
        )


def _refuse_keys(name: str, keys: list[str]) -> None:
    if keys:
        raise refuse(
            name,
            f"it contains `{keys[0][:100]}`, which can name a file outside the folder",
            keys[0][:100],
            "leave it out: the folder's own files are found by their names",
        )
