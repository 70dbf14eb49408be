"""Translation there and back, by models that know a handful of sentences by heart (see conftest.py)."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixkd.augment import augment, back_translation
from mixkd.augment.back_translation import EMPTY, SAME
from mixkd.augment.seam import STOPPED
from mixkd.contract.augment_spec import BackTranslation
from mixkd.contract.problems import RefusedError
from mixkd.contract.rows import Label, Row, Soft

TEXTS = ("a good film", "a bad film", "the man was there", "where is the city", "oh")
NEW = ["a fine movie", "the guy was here", "where is the town"]


def rows_of(*texts: str, label: Label = "yes") -> list[Row]:
    return [Row(10 + n, text, None, label) for n, text in enumerate(texts)]


def made(rows: Sequence[Row], everything: Sequence[Row]) -> list[Row]:
    assert list(everything[: len(rows)]) == list(rows)  # the real rows come first, untouched
    return list(everything[len(rows) :])


@pytest.fixture
def spec(there, back) -> BackTranslation:
    return BackTranslation(forward=there, backward=back, max_length=16)


class TestRows:
    def test_texts_go_there_and_back_and_keep_line_and_label(self, spec, make_context):
        rows = rows_of(*TEXTS, label="no")
        everything, [card] = augment(rows, [spec], context=make_context())
        assert made(rows, everything) == [
            Row(10, "a fine movie", None, "no"),
            Row(12, "the guy was here", None, "no"),
            Row(13, "where is the town", None, "no"),
        ]
        assert (card.kind, card.made) == ("back_translation", 3)

    def test_what_comes_back_as_it_was_or_empty_is_dropped_and_counted(self, spec, make_context):
        rows = rows_of("a bad film", "a  bad  film ", "oh", "a good film")
        everything, [card] = augment(rows, [spec], context=make_context())
        assert [row.text for row in made(rows, everything)] == ["a fine movie"]
        assert card.dropped == {SAME: 2, EMPTY: 1}

    def test_nothing_is_made_of_a_text_that_is_empty_on_the_way(self, there, back, make_context):
        heard = []
        context = make_context(progress=lambda *numbers: heard.append(numbers))
        spec = BackTranslation(forward=back, backward=there, max_length=16)
        everything, [card] = augment(rows_of("ach"), [spec], context=context)
        assert (len(everything), card.dropped) == (1, {EMPTY: 1})
        assert heard == [(1, 2)]  # a model that is given nothing makes something up

    @pytest.mark.parametrize("label", ["yes", ("a", "b"), (), 2.5, Soft((0.25, 0.75))])
    def test_every_kind_of_label_is_kept(self, label, spec, make_context):
        everything, _ = augment(rows_of("a good film", label=label), [spec], context=make_context())
        assert everything[1].label == label

    def test_both_texts_of_a_pair_are_translated(self, spec, make_context):
        rows = [
            Row(1, "a good film", "the man was there", "x"),
            Row(2, "a good film", "a bad film", "x"),  # one of the two is new: so is the pair
            Row(3, "a bad film", "a bad film", "x"),
            Row(4, "a good film", "oh", "x"),
        ]
        everything, [card] = augment(rows, [spec], context=make_context())
        assert made(rows, everything) == [
            Row(1, "a fine movie", "the guy was here", "x"),
            Row(2, "a fine movie", "a bad film", "x"),
        ]
        assert card.dropped == {SAME: 1, EMPTY: 1}

    def test_batches_by_length_change_no_order(self, there, back, make_context):
        rows = rows_of(*reversed(TEXTS), *TEXTS)
        spec = BackTranslation(forward=there, backward=back, max_length=16, batch_size=2)
        everything, _ = augment(rows, [spec], context=make_context())
        assert [row.text for row in made(rows, everything)] == [*reversed(NEW), *NEW]

    def test_a_text_of_many_rows_is_translated_once(self, spec, make_context):
        heard = []
        context = make_context(progress=lambda *numbers: heard.append(numbers))
        everything, _ = augment(rows_of(*["a good film"] * 40), [spec], context=context)
        assert len(everything) == 80
        assert heard == [(1, 2), (2, 2)]  # one text there, one back

    def test_a_text_that_is_too_long_is_cut_and_the_card_says_so(self, there, back, make_context):
        long = "the man was there where is the city"
        spec = BackTranslation(forward=there, backward=back, max_length=6)
        _, [card] = augment(rows_of(long, "a good film"), [spec], context=make_context())
        assert card.notes == ("1 of these rows were longer than 6 tokens: what lies beyond is not in them",)


class TestLanguages:
    def test_nllb_is_told_both_languages(self, nllb, make_context):
        spec = BackTranslation(
            forward=nllb, backward=nllb, source_language="eng_Latn", pivot_language="deu_Latn", max_length=16
        )
        everything, [card] = augment(rows_of(*TEXTS), [spec], context=make_context())
        assert [row.text for row in everything[5:]] == NEW
        assert card.dropped == {SAME: 1, EMPTY: 1}

    @pytest.mark.parametrize("field", ["source_language", "pivot_language"])
    def test_another_language_makes_other_texts(self, field, nllb, make_context):
        languages = {"source_language": "eng_Latn", "pivot_language": "deu_Latn"} | {field: "fra_Latn"}
        spec = BackTranslation(forward=nllb, backward=nllb, max_length=16, **languages)
        everything, _ = augment(rows_of(*TEXTS), [spec], context=make_context())
        assert len({row.text for row in everything[5:]}) == 1  # all became the same nonsense on the way

    def test_m2m100_is_told_both_languages(self, m2m100, make_context):
        spec = BackTranslation(
            forward=m2m100, backward=m2m100, source_language="en", pivot_language="de", max_length=16
        )
        everything, _ = augment(rows_of(*TEXTS), [spec], context=make_context())
        assert [row.text for row in everything[5:]] == NEW

    def test_a_marian_of_several_languages_is_told_the_one_it_makes(self, many, back, make_context):
        spec = BackTranslation(forward=many, backward=back, pivot_language="deu", max_length=16)
        everything, _ = augment(rows_of(*TEXTS), [spec], context=make_context())
        assert [row.text for row in everything[5:]] == NEW


class TestChance:
    def test_a_wider_search_finds_other_translations(self, spec, make_context):
        words = " ".join(TEXTS).split()
        rows = rows_of(*(f"{a} {b} {c}" for a in words for b, c in zip(words, words[5:], strict=False)))
        narrow = spec.model_copy(update={"beams": 1})
        wide, _ = augment(rows, [spec], context=make_context())
        assert augment(rows, [narrow], context=make_context())[0] != wide

    @pytest.fixture
    def sampling(self, there, back) -> BackTranslation:
        return BackTranslation(forward=there, backward=back, max_length=16, sample=True, temperature=2)

    def test_a_seed_decides_what_is_sampled(self, sampling, make_context, tmp_path):
        def texts(seed: int, cache: str) -> list[str]:
            torch.manual_seed(len(cache))  # whatever was drawn before
            context = make_context(seed=seed, cache=tmp_path / cache)
            return [row.text for row in augment(rows_of(*TEXTS), [sampling], context=context)[0]]

        assert texts(1, "a") == texts(1, "another")
        assert texts(1, "a") != texts(2, "a")

    def test_the_temperature_matters(self, sampling, make_context):
        cold = sampling.model_copy(update={"temperature": 0.01})
        everything, _ = augment(rows_of(*TEXTS), [cold], context=make_context())
        assert [row.text for row in everything[5:]] == NEW  # as the search finds them


class TestCache:
    @pytest.fixture
    def loads(self, monkeypatch) -> list[str]:
        """The models that were loaded."""
        loaded = []
        load = back_translation.load_translator

        def watched(way, device):
            loaded.append(way.field)
            return load(way, device)

        monkeypatch.setattr(back_translation, "load_translator", watched)
        return loaded

    def test_the_second_time_no_model_is_loaded(self, spec, make_context, loads):
        first = augment(rows_of(*TEXTS), [spec], context=make_context())
        assert loads == ["forward", "backward"]
        assert augment(rows_of(*TEXTS), [spec], context=make_context()) == first
        assert loads == ["forward", "backward"]

    def test_other_labels_and_seeds_need_no_new_translation(self, spec, make_context, loads):
        _, [card] = augment(rows_of(*TEXTS), [spec], context=make_context())
        everything, [other] = augment(rows_of(*TEXTS, label="no"), [spec], context=make_context(seed=7))
        assert len(loads) == 2
        assert {row.label for row in everything} == {"no"}
        assert other.key != card.key  # but these are other rows

    @pytest.mark.parametrize(
        "change",
        [
            {"beams": 2},
            {"sample": True},
            {"max_length": 12},
            {"batch_size": 2},
        ],
        ids=str,
    )
    def test_another_setting_is_another_translation(self, change, spec, make_context, loads):
        augment(rows_of(*TEXTS), [spec], context=make_context())
        augment(rows_of(*TEXTS), [spec.model_copy(update=change)], context=make_context())
        assert loads == ["forward", "backward"] * 2

    def test_so_are_another_temperature_and_seed_of_sampling(self, spec, make_context, loads):
        sampling = spec.model_copy(update={"sample": True})
        augment(rows_of("a good film"), [sampling], context=make_context())
        augment(rows_of("a good film"), [sampling], context=make_context(seed=1))
        cold = sampling.model_copy(update={"temperature": 0.5})
        augment(rows_of("a good film"), [cold], context=make_context())
        assert loads.count("forward") == 3

    @pytest.mark.parametrize("field", ["source_language", "pivot_language"])
    def test_so_is_another_language(self, field, nllb, make_context, loads):
        languages = {"source_language": "eng_Latn", "pivot_language": "deu_Latn"}
        for codes in (languages, languages | {field: "fra_Latn"}):
            spec = BackTranslation(forward=nllb, backward=nllb, max_length=16, **codes)
            augment(rows_of("a good film"), [spec], context=make_context())
        assert loads == ["forward", "backward"] * 2

    def test_another_text_is_translated_anew(self, spec, make_context, loads):
        augment(rows_of("a good film"), [spec], context=make_context())
        everything, _ = augment(rows_of("the man was there"), [spec], context=make_context())
        assert everything[1].text == "the guy was here"

    @pytest.mark.parametrize("file", ["model.safetensors", "source.spm", "generation_config.json"])
    def test_so_is_the_same_text_by_another_model(self, file, spec, make_context, loads, tmp_path):
        augment(rows_of(*TEXTS), [spec], context=make_context())
        moved = shutil.copytree(spec.forward, tmp_path / "copy")
        other = spec.model_copy(update={"forward": moved})
        augment(rows_of(*TEXTS), [other], context=make_context())
        assert loads == ["forward", "backward"]  # the same files elsewhere are the same model
        _change(moved / file)
        augment(rows_of(*TEXTS), [other], context=make_context())
        assert loads == ["forward", "backward", "forward"]  # which says the same, so `backward` has said it

    def test_what_was_done_before_a_stop_is_not_done_again(self, there, back, make_context, monkeypatch):
        monkeypatch.setattr(back_translation, "_BATCHES", 1)
        asked: list[str] = []
        translate = back_translation.translate

        def watched(translator, texts, spec):
            asked.extend(texts)
            return translate(translator, texts, spec)

        monkeypatch.setattr(back_translation, "translate", watched)
        spec = BackTranslation(forward=there, backward=back, max_length=16, batch_size=2)
        rows = rows_of(*TEXTS)
        answers = iter([False, False, True, False, True])  # two chunks there, and one back
        everything, [card] = augment(rows, [spec], context=make_context(should_stop=lambda: next(answers)))
        assert [row.text for row in made(rows, everything)] == ["a fine movie"]
        assert card.dropped == {SAME: 1, STOPPED: 3}
        assert len(asked) == 6

        everything, [card] = augment(rows, [spec], context=make_context())
        assert [row.text for row in made(rows, everything)] == NEW
        assert card.dropped == {SAME: 1, EMPTY: 1}
        assert len(asked) == 10  # five texts there, five back: none twice


def test_a_model_that_lacks_a_weight_is_refused(spec, make_context, tmp_path):
    folder = shutil.copytree(spec.backward, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.encoder.layers.0.fc1.bias")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match=r"fc1\.bias") as refused:
        augment(rows_of(*TEXTS), [spec.model_copy(update={"backward": folder})], context=make_context())
    assert refused.value.problems[0].field == "augment.0.backward"


def test_the_library_has_nothing_to_complain_of(spec, make_context, caplog, recwarn, monkeypatch):
    """A warning a batch would bury what matters in a job's log."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    augment(rows_of(*TEXTS), [spec], context=make_context())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert not recwarn.list


def _change(path: Path) -> None:
    """Other bytes, from which the same model is loaded."""
    if path.suffix == ".safetensors":
        save_file(load_file(path), path, {"format": "pt", "note": "saved again"})
    elif path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "length_penalty": 1.0}))
    else:
        path.write_bytes(path.read_bytes() + b"\xca\x3e\x01x")  # a field that no reader knows
