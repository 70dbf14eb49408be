"""The seam: who sees which rows, in which order they come back, and what the report gets to know."""

import json
import shutil
from dataclasses import replace

import pytest
from transformers import BertTokenizer

from mixkd.augment import AugmentCard, Context, Teacher, augment
from mixkd.contract.augment_spec import BackTranslation, Unlabelled
from mixkd.contract.problems import RefusedError
from mixkd.contract.rows import Row, Soft

ROWS = [Row(1, "a good film", None, "red"), Row(2, "the man was there", None, "blue")]


@pytest.fixture
def context(make_context, classifier, classifier_folder) -> Context:
    tokenizer = BertTokenizer.from_pretrained(classifier_folder)
    labels = [classifier.config.id2label[number] for number in range(4)]
    return make_context(teacher=Teacher(classifier, tokenizer, labels, "single_label", max_length=16))


@pytest.fixture
def texts(tmp_path) -> Unlabelled:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("where is the city", "oh")))
    return Unlabelled(file=file)


@pytest.fixture
def german(there, back) -> BackTranslation:
    return BackTranslation(forward=there, backward=back, max_length=16)


def test_without_an_augmenter_the_rows_are_the_real_ones(context):
    assert augment(ROWS, [], context=context) == (ROWS, [])


def test_each_sees_the_real_rows_only_and_they_come_in_order(texts, german, context):
    everything, cards = augment(ROWS, [texts, german, german], context=context)
    new = [(row.text, isinstance(row.label, Soft)) for row in everything[2:]]
    translated = [("a fine movie", False), ("the guy was here", False)]  # and no town, which has no label
    assert new == [("where is the city", True), ("oh", True), *translated, *translated]
    assert [card.kind for card in cards] == ["unlabelled", "back_translation", "back_translation"]


def test_a_card_names_the_files_but_not_where_they_lie(texts, german, context, tmp_path):
    _, cards = augment(ROWS, [texts, german], context=context)
    written = "".join(card.model_dump_json() for card in cards)
    assert str(tmp_path) not in written
    assert str(german.forward.parent) not in written
    labelled, translated = cards
    assert labelled.settings == {"file": "texts.jsonl", "least_confidence": 0.0}
    assert labelled.made_from.keys() == {"file", "teacher"}
    assert translated.settings["forward"] == german.forward.name
    assert translated.made_from.keys() == {"forward", "backward"}
    assert AugmentCard.model_validate_json(translated.model_dump_json()) == translated


class TestKey:
    def key(self, spec, context, rows=ROWS) -> str:
        _, [card] = augment(rows, [spec], context=context)
        return card.key

    def test_is_the_same_for_the_same(self, german, context, tmp_path):
        moved = german.model_copy(update={"forward": shutil.copytree(german.forward, tmp_path / "moved")})
        elsewhere = replace(context, cache=tmp_path / "other cache")
        assert self.key(german, context) == self.key(moved, elsewhere)

    def test_tells_apart_all_that_decides_the_rows(self, german, texts, context, tmp_path):
        other = shutil.copytree(german.forward, tmp_path / "other")
        vocabulary = json.loads((other / "vocab.json").read_text())
        (other / "vocab.json").write_text(json.dumps(vocabulary, indent=1))
        keys = [
            self.key(german, context),
            self.key(german.model_copy(update={"beams": 2}), context),
            self.key(german.model_copy(update={"forward": other}), context),
            self.key(german, replace(context, seed=1)),
            self.key(german, context, ROWS[:1]),
            self.key(german, context, ROWS[::-1]),
            self.key(german, context, [replace(row, label="red") for row in ROWS]),
            self.key(german, context, [replace(row, label=Soft((0.5, 0.5))) for row in ROWS]),
            self.key(german, context, [replace(row, label=(0.5, 0.5)) for row in ROWS]),
            self.key(texts, context),
        ]
        assert len(set(keys)) == len(keys)


def test_a_refusal_while_it_runs_says_which_augmenter(texts, german, context):
    (texts.file).write_text("")
    with pytest.raises(RefusedError) as refused:
        augment(ROWS, [german, texts], context=context)
    assert [problem.field for problem in refused.value.problems] == ["augment.1.file"]
