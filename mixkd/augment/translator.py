"""Translation models of the MarianMT, M2M100 and NLLB kinds, from local folders of safetensors files."""

import difflib
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixkd.augment.seam import within
from mixkd.contract.augment_spec import BackTranslation
from mixkd.contract.folder import INDEX, WEIGHTS, refuse_unusable_weights
from mixkd.contract.json_files import read_json
from mixkd.contract.problems import Problem, RefusedError, listed
from mixkd.contract.safetensors_header import read_safetensors_header
from mixkd.failures import is_out_of_memory

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_TOKENIZERS = {
    "marian": (("source.spm", "target.spm", "vocab.json"),),
    "m2m_100": (("tokenizer.json",), ("vocab.json", "sentencepiece.bpe.model")),  # NLLB's and M2M100's
}
"""By `model_type`: the sets of files of which one has to be there."""
_LOADED = {".json", ".model", ".safetensors", ".spm"}


@dataclass(frozen=True)
class Way:
    """One of the two translations: the field and the folder of its model; each language's field and code."""

    field: str
    folder: Path
    source: tuple[str, str | None]
    target: tuple[str, str | None]


class Told(NamedTuple):
    """How a model is told its languages, where it has to be: MarianMT by the text, the others by tokens."""

    prefix: str = ""  # of every text
    first_token: int | None = None  # of every translation
    fields: frozenset[str] = frozenset()  # of the spec, that this took


@dataclass(frozen=True)
class Translator:
    """A model that was told its languages."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    told: Told


class Translated(NamedTuple):
    """A text in another language; whether the end of the original was cut off to fit `max_length`."""

    text: str
    cut: bool


def check_way(way: Way, max_length: int) -> Told:
    """Check a model's folder and languages without loading its weights.

    Raises:
        RefusedError: the folder holds none of these models, it does not know a language, or its texts are
            shorter than `max_length`.
    """
    config = _check_folder(way)
    tokenizer = _load_tokenizer(way)
    known, positions = config.get("vocab_size"), config.get("max_position_embeddings")
    largest = max([*tokenizer.get_vocab().values(), *_codes(tokenizer).values()])
    if not isinstance(known, int) or largest >= known:
        raise RefusedError(
            Problem(way.field, f"its tokeniser makes token {largest}, but the model knows {known} only",
                    remedy="give it the tokeniser that belongs to this model")
        )  # fmt: skip
    if isinstance(positions, int) and max_length > positions:
        raise RefusedError(
            Problem("max_length", f"the model of `{way.field}` reads {positions} tokens at most", max_length,
                    f"choose {positions} or fewer")
        )  # fmt: skip
    return _tell(tokenizer, way)


def load_translator(way: Way, device: torch.device) -> Translator:
    """The model, ready to translate.

    Raises:
        RefusedError: a weight is missing, or the library cannot load the folder.
    """
    tokenizer = _load_tokenizer(way)
    told = _tell(tokenizer, way)
    with _loading(way, "model"):
        model, found = AutoModelForSeq2SeqLM.from_pretrained(
            way.folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
    if absent := sorted(found["missing_keys"]):  # the library fills them in at random
        raise RefusedError(
            Problem(way.field, f"{len(absent)} of its weights are missing: {listed(absent, 3)}",
                    remedy="save or download the model once more")
        )  # fmt: skip
    model.generation_config.max_length = None  # a folder has one at times; the spec's takes its place
    return Translator(model.to(device), tokenizer, told)


@torch.inference_mode()
def translate(translator: Translator, texts: Sequence[str], spec: BackTranslation) -> list[Translated]:
    """Texts in another language, in their order; white space in them is single spaces.

    A batch is of texts of similar length. Sampling draws from torch's generator: seed it first.
    """
    tokenizer, model = translator.tokenizer, translator.model
    given = [translator.told.prefix + text for text in texts]
    lengths = [len(ids) for ids in tokenizer(given)["input_ids"]]
    order = sorted(range(len(given)), key=lambda place: lengths[place])
    found: dict[int, Translated] = {}
    for start in range(0, len(order), spec.batch_size):
        places = order[start : start + spec.batch_size]
        inputs = tokenizer(
            [given[place] for place in places],
            padding=True,
            truncation=True,
            max_length=spec.max_length,
            return_tensors="pt",
        ).to(model.device)
        first = translator.told.first_token
        tokens = model.generate(**inputs, **_search(spec), forced_bos_token_id=first)  # type: ignore[operator]  # (B, T); torch types it as a module's attribute
        begun = 1 if first is None else 2  # M2M100's tokeniser would spell its language out
        decoded = tokenizer.batch_decode(tokens[:, begun:], skip_special_tokens=True)
        for place, text in zip(places, decoded, strict=True):
            found[place] = Translated(" ".join(text.split()), lengths[place] > spec.max_length)
    return [found[place] for place in range(len(given))]


def fingerprint(folder: Path) -> str:
    """SHA-256 of the names and contents of all files that loading a model reads."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _LOADED):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()


def _search(spec: BackTranslation) -> dict[str, Any]:
    """How words are chosen. A folder's own `top_k` or `top_p` would take variety away from sampling."""
    length = {"max_new_tokens": spec.max_length, "num_return_sequences": 1}
    if spec.sample:
        return {**length, "do_sample": True, "num_beams": 1, "temperature": spec.temperature,
                "top_k": 0, "top_p": 1.0}  # fmt: skip
    return {**length, "do_sample": False, "num_beams": spec.beams}


# -- languages -------------------------------------------------------------------------------------------


def _tell(tokenizer: PreTrainedTokenizerBase, way: Way) -> Told:
    codes = _codes(tokenizer)
    if not codes:  # from one language into one other
        return Told()
    target = _language(codes, way, way.target)
    if not hasattr(tokenizer, "src_lang"):  # Marian, into several languages
        return Told(f">>{target}<< ", None, frozenset({way.target[0]}))
    tokenizer.src_lang = _language(codes, way, way.source)
    return Told("", codes[target], frozenset({way.source[0], way.target[0]}))


def _codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The languages that a tokeniser has to be told, with their tokens; empty if it has none to choose."""
    if hasattr(tokenizer, "lang_code_to_id"):  # M2M100
        return dict(tokenizer.lang_code_to_id)
    if hasattr(tokenizer, "supported_language_codes"):  # Marian: >>deu<<
        tokens = {token.strip("<>"): token for token in tokenizer.supported_language_codes}
    else:  # NLLB
        tokens = {token: token for token in tokenizer.extra_special_tokens}
    numbers = tokenizer.convert_tokens_to_ids(list(tokens.values()))
    assert isinstance(numbers, list)
    return dict(zip(tokens, numbers, strict=True))


def _language(codes: Mapping[str, int], way: Way, language: tuple[str, str | None]) -> str:
    field, code = language
    if code is not None and code in codes:
        return code
    if code is None:
        problem, fitting = "has to be told this language", sorted(codes)
    else:
        problem = "does not know this language"
        fitting = difflib.get_close_matches(code, codes, n=10, cutoff=0)  # NLLB has 202
    raise RefusedError(
        Problem(field, f"the model of `{way.field}` {problem}", code, f"name one of {listed(fitting)}")
    )


# -- the folder ------------------------------------------------------------------------------------------


def _check_folder(way: Way) -> dict[str, object]:
    """Refuse a folder that is not a whole model of these kinds, by its JSON files and headers alone."""
    if not way.folder.is_dir():
        raise RefusedError(Problem(way.field, "there is no such folder", way.folder.name, "check its name"))
    files = {path.name: path.stat().st_size for path in way.folder.iterdir() if path.is_file()}
    with within(f"{way.field}/"):
        config = _config(way, files)
        refuse_unusable_weights(files)
        shards = {WEIGHTS}
        if WEIGHTS not in files:
            weight_map = read_json(way.folder, files, INDEX).get("weight_map")
            shards = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        if not shards or not shards <= files.keys():
            raise RefusedError(
                Problem(INDEX, "it names a shard that is not there", remedy="add the missing files")
            )
        for shard in sorted(shards):
            read_safetensors_header(way.folder / shard)
    return config


def _config(way: Way, files: Mapping[str, int]) -> dict[str, object]:
    if "config.json" not in files:
        raise RefusedError(
            Problem("config.json", "the folder has none", remedy="save the model with `save_pretrained`")
        )
    config = read_json(way.folder, files, "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _TOKENIZERS or config.get("is_encoder_decoder") is False:
        raise RefusedError(
            Problem("config.json", f"it is not a translation model of the kinds {', '.join(_TOKENIZERS)}",
                    str(kind)[:100], "use a MarianMT, M2M100 or NLLB model")
        )  # fmt: skip
    for key in ("auto_map", "quantization_config", "transformers_weights"):
        if config.get(key) is not None:
            raise RefusedError(
                Problem("config.json", f"it contains `{key}`: more than this folder's plain weights would be "
                        "loaded", key, "use a model of a built-in architecture")
            )  # fmt: skip
    if not any(files.keys() >= set(names) for names in _TOKENIZERS[kind]):
        needed = " or ".join(" with ".join(names) for names in _TOKENIZERS[kind])
        raise RefusedError(Problem("tokenizer", f"the folder has none: {needed}", remedy="add these files"))
    return config


def _load_tokenizer(way: Way) -> PreTrainedTokenizerBase:
    with _loading(way, "tokeniser"), warnings.catch_warnings():
        # Marian's recommends sacremoses, to normalise punctuation, and never calls what it would set up.
        warnings.filterwarnings("ignore", message=".*sacremoses")
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(way.folder, **_LOCAL)
    return tokenizer


@contextmanager
def _loading(way: Way, part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a folder's files make the library raise, the cause is the folder
        if is_out_of_memory(error):
            raise
        raise RefusedError(
            Problem(way.field, f"its {part} cannot be loaded ({type(error).__name__})",
                    remedy="check that the folder loads with plain transformers")
        ) from error  # fmt: skip
