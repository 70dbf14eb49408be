"""A model's folder as others get it: whole, plain, and free of where it was made."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from mixkd.contract.folder import inspect_folder
from mixkd.export.folder import export, replacing, weights_bytes
from mixkd.teacher import load_tokenizer
from tests.support.encoders import KINDS, tiny_classifier, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_classifier("bert")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """Loaded from a folder, and used: it remembers both."""
    tiny_tokenizer("bert").save_pretrained(tmp_path / "source")
    tokenizer = load_tokenizer(tmp_path / "source")
    tokenizer(["word1 word2", "word3"], padding=True, truncation=True, max_length=3)
    return tokenizer


def test_plain_transformers_loads_it_and_answers_the_same(
    model: PreTrainedModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export(model, tokenizer, tmp_path / "student")
    coded = AutoTokenizer.from_pretrained(tmp_path / "student")("word1 word2", return_tensors="pt")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    with torch.inference_mode():
        assert torch.equal(loaded(**coded).logits, model(**coded).logits)


def test_how_it_was_loaded_and_used_here_is_not_handed_on(
    model: PreTrainedModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export(model, tokenizer, tmp_path / "student")
    for path in (tmp_path / "student").glob("*.json"):
        assert str(tmp_path) not in path.read_text()
    noted = json.loads((tmp_path / "student" / "tokenizer_config.json").read_text())
    assert not {"local_files_only", "is_local", "name_or_path"} & noted.keys()
    coding = json.loads((tmp_path / "student" / "tokenizer.json").read_text())
    assert (coding["padding"], coding["truncation"]) == (None, None)


def test_everybody_may_read_it(model: PreTrainedModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    export(model, tokenizer, tmp_path / "student")
    assert (tmp_path / "student").stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "student").iterdir()} == {0o644}


def test_a_folder_that_was_there_is_replaced_whole(
    model: PreTrainedModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "student" / "onnx").mkdir(parents=True)
    (tmp_path / "student" / "onnx" / "model.onnx").write_text("of another student")
    export(model, tokenizer, tmp_path / "student")
    assert not (tmp_path / "student" / "onnx").exists()
    assert inspect_folder(tmp_path / "student").layers == model.config.num_hidden_layers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "student"]


def test_an_export_that_fails_leaves_what_was_there(
    model: PreTrainedModel, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "config.json").write_text("the old one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)  # the weights are written by then
    with pytest.raises(OSError, match="No space left"):
        export(model, tokenizer, tmp_path / "student")
    assert [path.read_text() for path in (tmp_path / "student").iterdir()] == ["the old one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "student"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_the_weights_is_known_before_they_are_written(kind: str, tmp_path: Path) -> None:
    model = tiny_classifier(kind)
    model.save_pretrained(tmp_path)
    assert weights_bytes(model) == (tmp_path / "model.safetensors").stat().st_size


def test_a_folder_that_cannot_take_its_place_leaves_the_one_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ship").mkdir()
    (tmp_path / "ship" / "old").touch()
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> None:
        rename(path, target)
        if target.name.endswith("-old"):
            raise SystemExit(143)  # a signal comes between the two

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(SystemExit), replacing(tmp_path / "ship"):
        pass
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["ship", "ship/old"]


def test_replacing_a_folder_touches_nothing_else_beside_it(tmp_path: Path) -> None:
    """Whatever begins like a scratch folder's name: it may be another export's, or somebody's own."""
    for name in (".ship-notes", ".ship-abcd1234"):
        (tmp_path / name).mkdir()
    with replacing(tmp_path / "ship") as scratch:
        (scratch / "new").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"ship", ".ship-notes", ".ship-abcd1234"}
