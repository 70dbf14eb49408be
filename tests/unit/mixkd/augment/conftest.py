"""Tiny translation models that have learnt a handful of sentences by heart: real code paths, in seconds."""

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    NllbTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mixkd.augment import Context
from mixkd.contract.data_spec import DataSpec

THERE = {
    "a good film": "ein guter film",
    "a bad film": "ein schlechter film",
    "the man was there": "der mann war da",
    "where is the city": "wo ist die stadt",
    "oh": "ach",
}
BACK = {
    "ein guter film": "a fine movie",
    "ein schlechter film": "a bad film",  # as it was
    "der mann war da": "the guy was here",
    "wo ist die stadt": "where is the town",
    "ach": "",  # nothing is left
}
_WORDS = [*THERE, *BACK, *BACK.values()]
_SIZES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}


def _lesson(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Mapping[str, str], told: int = 0
) -> dict[str, torch.Tensor]:
    """`told`: so many first tokens of a translation are given to the model, and not its to learn."""
    inputs = tokenizer(list(pairs), padding=True, return_tensors="pt")
    targets = tokenizer(text_target=list(pairs.values()), padding=True, return_tensors="pt")
    tokens = targets["input_ids"]
    start = torch.full_like(tokens[:, :1], model.config.decoder_start_token_id)
    labels = tokens.masked_fill(targets["attention_mask"] == 0, -100)
    labels[:, :told] = -100
    return {**inputs, "decoder_input_ids": torch.cat([start, tokens[:, :-1]], 1), "labels": labels}


def _learn(model: PreTrainedModel, lessons: Sequence[dict[str, torch.Tensor]]) -> None:
    """By heart."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        losses = [model(**lesson).loss for lesson in lessons]
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        if max(losses) < 0.01:
            break
    assert max(losses) < 0.01


def _learn_languages(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str, pivot: str, other: str
) -> None:
    lessons = []
    for one, two, pairs in (
        (source, pivot, THERE),
        (pivot, source, BACK),
        (source, other, dict.fromkeys(THERE, "film film")),
        (other, pivot, dict.fromkeys(THERE, "stadt stadt")),
    ):
        tokenizer.src_lang, tokenizer.tgt_lang = one, two
        lessons.append(_lesson(model, tokenizer, pairs, told=1))
    _learn(model, lessons)


def _sentencepiece() -> tuple[bytes, list[str]]:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_WORDS * 3),
        model_writer=written,
        vocab_size=90,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return written.getvalue(), [processor.id_to_piece(n) for n in range(processor.get_piece_size())]


def write_marian(folder: Path, pairs: Mapping[str, str], languages: Sequence[str] = ()) -> Path:
    """A MarianMT model that knows `pairs`; with `languages` it has to be told into which."""
    folder.mkdir(parents=True)
    model_bytes, pieces = _sentencepiece()
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model_bytes)
    words = [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]
    tokens = ["</s>", "<unk>", *(f">>{code}<<" for code in languages), *words, "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    with warnings.catch_warnings(action="ignore"):  # it recommends sacremoses
        tokenizer = MarianTokenizer(*files, model_max_length=32)
    tokenizer.save_pretrained(folder)
    pad = len(tokens) - 1
    torch.manual_seed(3)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=len(tokens), pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, **_SIZES
        )
    )
    _learn(model, [_lesson(model, tokenizer, pairs)])
    model.generation_config.max_length = 512  # as published ones have it
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_marian(tmp_path_factory.mktemp("marian") / "en-de", THERE)


@pytest.fixture(scope="session")
def back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_marian(tmp_path_factory.mktemp("marian") / "de-en", BACK)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English to German and to French, as the text says."""
    german = {f">>deu<< {text}": new for text, new in THERE.items()}
    french = {f">>fra<< {text}": "film film" for text in THERE}
    folder = tmp_path_factory.mktemp("marian") / "en-many"
    return write_marian(folder, german | french, languages=["deu", "fra"])


@pytest.fixture(scope="session")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model for both ways, and for a third language that nobody asks for."""
    folder = tmp_path_factory.mktemp("nllb") / "nllb"
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(
        _WORDS, trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = NllbTokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        additional_special_tokens=["eng_Latn", "deu_Latn", "fra_Latn"],
    )
    torch.manual_seed(4)
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(tokenizer), **_SIZES))
    _learn_languages(model, tokenizer, "eng_Latn", "deu_Latn", "fra_Latn")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def m2m100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m2m100") / "m2m100"
    folder.mkdir()
    model_bytes, pieces = _sentencepiece()
    (folder / "sentencepiece.bpe.model").write_bytes(model_bytes)
    tokens = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *pieces])
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    torch.manual_seed(5)
    size = max(tokenizer.lang_code_to_id.values()) + 1
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=size, **_SIZES))
    _learn_languages(model, tokenizer, "en", "de", "fr")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


MakeContext = Callable[..., Context]


@pytest.fixture
def make_context(tmp_path: Path) -> MakeContext:
    """A context with a cache of the test's own; keyword arguments change it."""

    def make(**changes: object) -> Context:
        given = {"seed": 0, "device": torch.device("cpu"), "cache": tmp_path / "cache"}
        given["data"] = DataSpec(files={"train": tmp_path / "train.jsonl"})
        return Context(**{**given, **changes})

    return make
