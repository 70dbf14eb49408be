"""Texts that the taught teacher labels, against the teacher asked by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer, PreTrainedModel

from mixkd.augment import Context, Teacher, augment, check_augmenter, unlabelled
from mixkd.augment.seam import STOPPED
from mixkd.augment.unlabelled import REPEATED, TRAINED_ON, UNSURE
from mixkd.contract.augment_spec import Unlabelled
from mixkd.contract.data_spec import Columns, DataSpec
from mixkd.contract.problems import RefusedError
from mixkd.contract.rows import Row, Soft

TEXTS = ("red word1 word2", "green", "word3 blue word4 word5 ?", "word6 word7")
ROWS = [Row(1, "red word8", None, "red")]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture
def teacher(classifier, classifier_folder) -> Teacher:
    tokenizer = BertTokenizer.from_pretrained(classifier_folder)
    classifier.load_state_dict({name: 8 * weight for name, weight in classifier.state_dict().items()})  # bold
    labels = [classifier.config.id2label[number] for number in range(4)]
    return Teacher(classifier, tokenizer, labels, "single_label", max_length=16)


@pytest.fixture
def context(make_context, teacher) -> Context:
    return make_context(teacher=teacher)


def other_weights(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.classifier.bias[0] += 1


def other_config(model: PreTrainedModel) -> None:
    model.config.layer_norm_eps = 0.1


def asked_by_hand(teacher: Teacher, *texts: str, pair: str | None = None) -> torch.Tensor:
    """Its logits, without anything of ours: (N, C)."""
    tokens = [teacher.tokenizer(text, pair, return_tensors="pt") for text in texts]
    with torch.inference_mode():
        return torch.cat([teacher.model(**one).logits for one in tokens])


class TestLabels:
    def test_are_the_teachers_probabilities(self, file, context, teacher):
        everything, [card] = augment(ROWS, [Unlabelled(file=file)], context=context)
        assert everything[:1] == ROWS
        made = everything[1:]
        assert [(row.line, row.text) for row in made] == list(enumerate(TEXTS, 1))
        assert all(isinstance(row.label, Soft) for row in made)
        found = torch.tensor([row.label.values for row in made])
        torch.testing.assert_close(found, asked_by_hand(teacher, *TEXTS).softmax(-1))
        assert (card.kind, card.made, card.dropped) == ("unlabelled", 4, {})

    def test_of_several_a_row_are_independent(self, file, context, teacher):
        context = replace(context, teacher=replace(teacher, task="multi_label"))
        everything, _ = augment(ROWS, [Unlabelled(file=file)], context=context)
        found = torch.tensor([row.label.values for row in everything[1:]])
        torch.testing.assert_close(found, asked_by_hand(teacher, *TEXTS).sigmoid())

    def test_of_a_regression_are_its_scores(self, file, context, teacher):
        config = teacher.model.config
        config.num_labels = 1
        torch.manual_seed(0)
        scoring = Teacher(
            BertForSequenceClassification(config).eval(), teacher.tokenizer, (), "regression", max_length=16
        )
        everything, _ = augment(ROWS, [Unlabelled(file=file)], context=replace(context, teacher=scoring))
        assert all(isinstance(row.label, float) for row in everything[1:])
        found = torch.tensor([[row.label] for row in everything[1:]])
        torch.testing.assert_close(found, asked_by_hand(scoring, *TEXTS))

    def test_of_pairs(self, tmp_path, context, teacher):
        file = tmp_path / "pairs.csv"
        file.write_text("one,two\nred word1,word2\n")
        data = DataSpec(
            files={"train": tmp_path / "train.csv"},
            format="csv",
            columns=Columns(text="one", text_pair="two"),
        )
        rows = [Row(1, "red word1", "word3", "red")]  # the same text with another partner
        everything, _ = augment(rows, [Unlabelled(file=file)], context=replace(context, data=data))
        [made] = everything[1:]
        assert (made.text, made.text_pair) == ("red word1", "word2")
        expected = asked_by_hand(teacher, "red word1", pair="word2").softmax(-1)
        torch.testing.assert_close(torch.tensor([made.label.values]), expected)


class TestDropped:
    def test_texts_that_are_there_already(self, file, context):
        rows = [Row(1, TEXTS[2], None, "blue"), Row(2, TEXTS[2], None, "blue")]
        file.write_text(file.read_text() * 2)
        everything, [card] = augment(rows, [Unlabelled(file=file)], context=context)
        assert [row.text for row in everything[2:]] == [TEXTS[0], TEXTS[1], TEXTS[3]]
        assert card.dropped == {TRAINED_ON: 2, REPEATED: 3}

    def test_texts_that_the_teacher_is_unsure_of(self, file, context, teacher):
        sure = asked_by_hand(teacher, *TEXTS).softmax(-1).max(-1).values
        least = float(sure.sort().values[1:3].mean())  # two are above, two below
        everything, [card] = augment(ROWS, [Unlabelled(file=file, least_confidence=least)], context=context)
        kept = [text for text, confidence in zip(TEXTS, sure, strict=True) if confidence >= least]
        assert [row.text for row in everything[1:]] == kept
        assert (card.made, card.dropped) == (2, {UNSURE: 2})

    def test_what_was_not_reached(self, file, context, monkeypatch):
        monkeypatch.setattr(unlabelled, "_CHUNK", 3)
        answers, heard = iter([False, True]), []
        stopped = replace(
            context, should_stop=lambda: next(answers), progress=lambda *numbers: heard.append(numbers)
        )
        everything, [card] = augment(ROWS, [Unlabelled(file=file)], context=stopped)
        assert [row.text for row in everything[1:]] == list(TEXTS[:3])
        assert card.dropped == {STOPPED: 1}
        assert heard == [(3, 4)]


class TestCache:
    @pytest.fixture
    def asked(self, monkeypatch) -> list[int]:
        """How many texts the teacher was asked about, each time."""
        counts: list[int] = []
        answers = unlabelled.answers

        def watched(model, rows, device):
            counts.append(len(rows))
            return answers(model, rows, device)

        monkeypatch.setattr(unlabelled, "answers", watched)
        return counts

    def test_the_second_time_the_teacher_is_not_asked(self, file, context, asked):
        first = augment(ROWS, [Unlabelled(file=file)], context=context)
        assert augment(ROWS, [Unlabelled(file=file)], context=context) == first
        augment(ROWS, [Unlabelled(file=file, least_confidence=0.5)], context=context)
        assert asked == [4]

    @pytest.mark.parametrize("change", [other_weights, other_config])
    def test_another_teacher_is(self, change: Callable[..., None], file, context, teacher, asked):
        augment(ROWS, [Unlabelled(file=file)], context=context)
        change(teacher.model)
        augment(ROWS, [Unlabelled(file=file)], context=context)
        assert asked == [4, 4]

    def test_so_is_one_that_reads_less_of_a_text(self, file, context, teacher, asked):
        augment(ROWS, [Unlabelled(file=file)], context=context)
        augment(
            ROWS,
            [Unlabelled(file=file)],
            context=replace(context, teacher=replace(teacher, max_length=4)),
        )
        assert asked == [4, 4]


class TestCheck:
    def refused_field(self, spec: Unlabelled, **data: object) -> str:
        with pytest.raises(RefusedError) as refused:
            check_augmenter(spec, DataSpec(files={"train": Path("train.jsonl")}, **data), "augment.0")
        [problem] = refused.value.problems
        return problem.field

    def test_good_texts_pass(self, file):
        check_augmenter(Unlabelled(file=file), DataSpec(files={"train": Path("train.jsonl")}), "augment.0")

    def test_a_file_that_is_not_there(self, tmp_path):
        assert self.refused_field(Unlabelled(file=tmp_path / "nowhere.jsonl")) == "augment.0.file"

    def test_a_bad_row(self, file):
        file.write_text(file.read_text() + '{"text": ""}\n')
        assert self.refused_field(Unlabelled(file=file)) == "augment.0.file"

    @pytest.mark.parametrize("task", ["multi_label", "regression"])
    def test_a_confidence_that_the_task_does_not_have(self, task, file):
        spec = Unlabelled(file=file, least_confidence=0.9)
        assert self.refused_field(spec, task=task) == "augment.0.least_confidence"
