"""A folder that cannot translate is refused before anything runs, under the name of its field."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixkd.augment import check_augmenter
from mixkd.augment.translator import Way, fingerprint, load_translator, translate
from mixkd.contract.augment_spec import BackTranslation
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import Problem, RefusedError

DATA = DataSpec(files={"train": Path("train.jsonl")})


def refusal(spec: BackTranslation) -> Problem:
    with pytest.raises(RefusedError) as refused:
        check_augmenter(spec, DATA, "augment.3")
    [problem] = refused.value.problems
    return problem


@pytest.fixture
def spec(there, back) -> BackTranslation:
    return BackTranslation(forward=there, backward=back, max_length=32)


@pytest.fixture
def broken(there, tmp_path) -> Path:
    """A copy to break."""
    return shutil.copytree(there, tmp_path / "broken")


def rewrite(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_good_folders_pass(spec, many, nllb, m2m100):
    check_augmenter(spec, DATA, "augment.3")
    check_augmenter(
        BackTranslation(forward=many, backward=spec.backward, pivot_language="fra", max_length=32), DATA, ""
    )
    for folder, source, pivot in ((nllb, "eng_Latn", "deu_Latn"), (m2m100, "en", "fr")):
        both = BackTranslation(
            forward=folder, backward=folder, source_language=source, pivot_language=pivot, max_length=32
        )
        check_augmenter(both, DATA, "augment.3")


def test_shards_are_as_good_as_one_file(spec, broken):
    weights = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    names = sorted(weights)
    index = {}
    for number, some in enumerate((names[:20], names[20:]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in some}, broken / shard, {"format": "pt"})
        index |= dict.fromkeys(some, shard)
    (broken / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    check_augmenter(spec.model_copy(update={"forward": broken}), DATA, "augment.3")
    (broken / "model-00002-of-00002.safetensors").unlink()
    problem = refusal(spec.model_copy(update={"forward": broken}))
    assert problem.field == "augment.3.forward/model.safetensors.index.json"


class TestFolder:
    def test_that_is_not_there(self, spec, tmp_path):
        problem = refusal(spec.model_copy(update={"backward": tmp_path / "secret" / "nowhere"}))
        assert (problem.field, problem.value) == ("augment.3.backward", "nowhere")  # no path of this machine

    @pytest.mark.parametrize(
        ("break_it", "file", "words"),
        [
            (lambda f: (f / "config.json").unlink(), "config.json", "has none"),
            (lambda f: (f / "config.json").write_text('{"model'), "config.json", "not valid JSON"),
            (lambda f: rewrite(f / "config.json", model_type="bert"), "config.json", "translation model"),
            (
                lambda f: rewrite(f / "config.json", is_encoder_decoder=False),
                "config.json",
                "translation model",
            ),
            (lambda f: rewrite(f / "config.json", auto_map={"A": "b.C"}), "config.json", "auto_map"),
            (
                lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
                "pytorch_model.bin",
                "can run code",
            ),
            (lambda f: (f / "model.safetensors").unlink(), "model.safetensors", "no weights"),
            (
                lambda f: (f / "model.safetensors").write_text("version https://git-lfs"),
                "model.safetensors",
                "",
            ),
            (lambda f: (f / "source.spm").unlink(), "tokenizer", "source.spm with target.spm"),
        ],
        ids=[
            "no-config",
            "torn-config",
            "classifier",
            "no-decoder",
            "code",
            "pickled-weights",
            "no-weights",
            "pointer-for-weights",
            "no-tokeniser",
        ],
    )
    def test_that_holds_no_usable_model(self, break_it, file, words, spec, broken):
        break_it(broken)
        problem = refusal(spec.model_copy(update={"backward": broken}))
        assert problem.field == f"augment.3.backward/{file}"
        assert words in problem.problem
        assert problem.remedy

    def test_with_a_tokeniser_that_cannot_be_loaded(self, spec, broken):
        (broken / "source.spm").write_bytes(b"no sentencepiece model")
        problem = refusal(spec.model_copy(update={"forward": broken}))
        assert problem.field == "augment.3.forward"
        assert "tokeniser cannot be loaded" in problem.problem

    def test_with_the_tokeniser_of_another_model(self, spec, broken):
        vocabulary = json.loads((broken / "vocab.json").read_text())
        rewrite(broken / "vocab.json", more=len(vocabulary))
        problem = refusal(spec.model_copy(update={"forward": broken}))
        assert problem.field == "augment.3.forward"
        assert f"makes token {len(vocabulary)}" in problem.problem

    def test_whose_texts_are_shorter(self, spec):
        problem = refusal(spec.model_copy(update={"max_length": 33}))
        assert (problem.field, problem.value) == ("augment.3.max_length", 33)
        assert problem.remedy == "choose 32 or fewer"


class TestLanguages:
    @pytest.mark.parametrize(
        ("source", "pivot", "field", "offered"),
        [
            (None, "deu_Latn", "source_language", "'deu_Latn', 'eng_Latn', 'fra_Latn'"),
            ("eng_Latn", None, "pivot_language", "'deu_Latn', 'eng_Latn', 'fra_Latn'"),
            ("eng_Latn", "fra", "pivot_language", "'fra_Latn', "),  # the nearest first
            ("film", "deu_Latn", "source_language", ""),  # a word, but no language
        ],
    )
    def test_of_nllb(self, source, pivot, field, offered, nllb):
        languages = {"source_language": source, "pivot_language": pivot}
        problem = refusal(BackTranslation(forward=nllb, backward=nllb, max_length=32, **languages))
        assert problem.field == f"augment.3.{field}"
        assert problem.value == languages[field]
        assert "the model of `forward`" in problem.problem
        assert str(problem.remedy).startswith(f"name one of {offered}")

    def test_of_a_way_back_that_is_told_them_too(self, there, m2m100):
        spec = BackTranslation(forward=there, backward=m2m100, pivot_language="de", max_length=32)
        problem = refusal(spec)
        assert problem.field == "augment.3.source_language"
        assert "the model of `backward`" in problem.problem

    def test_of_a_marian_of_several(self, many, back):
        problem = refusal(BackTranslation(forward=many, backward=back, max_length=32))
        assert problem.field == "augment.3.pivot_language"
        assert problem.remedy == "name one of 'deu', 'fra'"

    def test_that_no_model_has_to_be_told(self, spec, many):
        problem = refusal(spec.model_copy(update={"pivot_language": "deu"}))
        assert (problem.field, problem.value) == ("augment.3.pivot_language", "deu")
        forward = {"forward": many, "pivot_language": "deu", "source_language": "eng"}
        assert refusal(spec.model_copy(update=forward)).field == "augment.3.source_language"


def test_batches_are_of_similar_length_and_no_text_is_longer_than_allowed(there, monkeypatch):
    way = Way("forward", there, ("source_language", None), ("pivot_language", None))
    translator = load_translator(way, torch.device("cpu"))
    generate, read, written = translator.model.generate, [], []

    def watched(**options):
        tokens = generate(**options)
        read.append(int(options["attention_mask"].sum()) / options["attention_mask"].numel())
        written.append(tokens.shape[1] - 1)  # without the token that starts it
        return tokens

    monkeypatch.setattr(translator.model, "generate", watched)
    texts = ["oh", "the man was there", "oh", "the man was there", "oh", "the man was there"]
    spec = BackTranslation(forward=there, backward=there, batch_size=2, max_length=5)
    assert [cut for _, cut in translate(translator, texts, spec)] == [False, True] * 3
    assert len(read) == 3
    assert sum(read) / 3 > 0.8  # of what is read, so much is no padding
    assert max(written) == 5


def test_a_fingerprint_is_of_what_loading_reads(broken, there):
    assert fingerprint(broken) == fingerprint(there)
    (broken / "README.md").write_text("a note")
    assert fingerprint(broken) == fingerprint(there)
    (broken / "vocab.json").rename(broken / "words.json")
    assert fingerprint(broken) != fingerprint(there)
