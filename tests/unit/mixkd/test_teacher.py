"""What a model's folder can make the library do: read its own files, and nothing beyond the folder."""

import json
import shutil
from pathlib import Path

import pytest
from sentencepiece import SentencePieceTrainer
from transformers import BertConfig, BertForSequenceClassification

from mixkd.contract.folder import inspect_folder
from mixkd.contract.problems import RefusedError
from mixkd.teacher import load_encoder, load_teacher, load_tokenizer
from tests.support.encoders import save_folder, tiny_classifier, tiny_encoder
from tests.support.tiny import VOCABULARY, write_bert

KEYS = ["vocab", "vocab_file", "merges", "tokenizer_file", "special_tokens_map_file", "added_tokens_file"]
CONFIGS = ["tokenizer_config.json", "special_tokens_map.json", "config.json"]
PIECES = {"albert": "spiece.model", "deberta-v3": "spm.model", "xlm-roberta": "sentencepiece.bpe.model"}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("file", CONFIGS)
def test_no_tokeniser_reads_a_file_outside_its_folder(tmp_path: Path, file: str, key: str) -> None:
    """A student carries its tokeniser away, and with it whatever that has read."""
    canary = tmp_path / "canary.txt"
    canary.write_text("\n".join([*VOCABULARY, "canary"]))
    assert not reads(write_bert(tmp_path / "model"), file, {key: str(canary)}, "canary")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", PIECES)
def test_no_sentencepiece_tokeniser_does(pieces: Path, kind: str, key: str, tmp_path: Path) -> None:
    for file in CONFIGS:
        for outside in (pieces / "canary" / "m.model", pieces / "canary" / "tokenizer.json"):
            folder = tmp_path / f"{file}-{outside.name}"
            shutil.copytree(pieces / kind, folder)
            assert not reads(folder, file, {key: str(outside)}, "▁canary")
    shutil.copy(pieces / "canary" / "m.model", folder / PIECES[kind])
    assert reads(folder, "config.json", {key: None}, "▁canary"), "the trap must be one"


def reads(folder: Path, file: str, fields: dict[str, str | None], word: str) -> bool:
    """Whether, with these fields in a file of its folder, an accepted tokeniser knows a word."""
    content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(content | fields))
    try:
        inspect_folder(folder)
    except RefusedError:
        return False
    return word in load_tokenizer(folder).get_vocab()


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family that has its vocabulary in a SentencePiece file, and that of another model."""
    root = tmp_path_factory.mktemp("pieces")
    for kind, name in PIECES.items():
        tiny_classifier(kind).save_pretrained(root / kind)
        train_pieces(root / kind / name, "horse")
    train_pieces(root / "canary" / "m.model", "canary")
    whole = save_folder(tiny_encoder("deberta-v3"), "deberta-v3", root / "whole")
    made = (whole / "tokenizer.json").read_text().replace("▁word0", "▁canary")
    (root / "canary" / "tokenizer.json").write_text(made)
    return root


def train_pieces(path: Path, word: str) -> None:
    """Write the SentencePiece model of a language of one word."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter([f"{word} {word}"] * 50),
            model_writer=file,
            model_type="word",
            vocab_size=20,
            hard_vocab_limit=False,
            control_symbols=["[CLS]", "[SEP]"],
            user_defined_symbols=["[MASK]"],
            pad_id=3,
            pad_piece="[PAD]",
            minloglevel=2,
        )


@pytest.mark.parametrize("kind", PIECES)
def test_a_vocabulary_in_a_sentencepiece_file_is_enough(pieces: Path, kind: str) -> None:
    """As published: DeBERTa-v3's folder has no other."""
    assert inspect_folder(pieces / kind).labels is not None
    tokenizer = load_tokenizer(pieces / kind)
    assert "▁horse" in tokenizer.convert_ids_to_tokens(tokenizer("horse")["input_ids"])


@pytest.mark.parametrize("missing", ["bert.encoder.layer.1.output.dense.weight", "classifier.weight"])
def test_weights_that_a_teacher_lacks_are_refused_and_not_made_up(tmp_path: Path, missing: str) -> None:
    model = BertForSequenceClassification(BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    ))  # fmt: skip
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if k != missing})
    with pytest.raises(RefusedError) as caught:
        load_teacher(tmp_path)
    assert missing in caught.value.problems[0].problem
    if missing.startswith("bert"):
        with pytest.raises(RefusedError) as caught:
            load_encoder(tmp_path, "student")
        assert caught.value.problems[0].field == "student"
