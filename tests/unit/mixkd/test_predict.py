"""What a classifier says of texts, as a library and as `python -m mixkd predict`."""

import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer, PreTrainedModel

from mixkd import predict as module
from mixkd.__main__ import main
from mixkd.contract.problems import RefusedError
from mixkd.predict import OneLabel, OneScore, SeveralLabels, load, predict, task_of

TEXTS = ["red", "word1 word2 word3 blue word4", "word1 green", "? ? ? ? ? ? ? red", "blue word5", "green"]
CPU = torch.device("cpu")


def logits_of(folder: Path, *texts: str) -> list[float]:
    """What plain transformers answers to one text, or one pair of texts."""
    tokens = BertTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")
    with torch.inference_mode():
        answers: list[float] = (
            BertForSequenceClassification.from_pretrained(folder)(**tokens).logits[0].tolist()
        )
    return answers


def saved_as(classifier_folder: Path, folder: Path, problem_type: str, outputs: int) -> Path:
    model = BertForSequenceClassification.from_pretrained(
        classifier_folder, problem_type=problem_type, num_labels=outputs, ignore_mismatched_sizes=True
    )
    model.classifier.bias.data = torch.linspace(-1, 1, outputs)  # far from each other
    model.save_pretrained(folder)
    BertTokenizer.from_pretrained(classifier_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(classifier_folder: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(classifier_folder)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_answers_come_in_the_order_of_the_texts_and_are_those_of_transformers(
    classifier_folder: Path,
    classifier: PreTrainedModel,
    tokenizer: BertTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
) -> None:
    """Rows are sorted by length inside, in batches; nobody must notice."""
    monkeypatch.setattr(module, "_CHUNK", chunk)
    found = list(predict(classifier, tokenizer, TEXTS))
    for text, answer in zip(TEXTS, found, strict=True):
        wanted = torch.tensor(logits_of(classifier_folder, text)).softmax(-1)
        assert isinstance(answer, OneLabel)
        assert list(answer.probabilities) == ["none", "blue", "green", "red"]
        assert list(answer.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-6)
        assert answer.label == list(answer.probabilities)[int(wanted.argmax())]


def test_a_stream_without_an_end_is_answered(classifier: PreTrainedModel, tokenizer: BertTokenizer) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for read in itertools.count(1):  # noqa: B007 - the test looks at it
            yield "red word1"

    found = list(itertools.islice(predict(classifier, tokenizer, endless()), 3))
    assert len(found) == 3
    assert read < 10_000


def test_a_pair_of_texts_is_one_row(
    classifier_folder: Path, classifier: PreTrainedModel, tokenizer: BertTokenizer
) -> None:
    [answer] = predict(classifier, tokenizer, [("red word1", "blue ?")])
    wanted = torch.tensor(logits_of(classifier_folder, "red word1", "blue ?")).softmax(-1)
    assert isinstance(answer, OneLabel)
    assert list(answer.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-6)


def test_a_multi_label_model_names_every_label_that_is_likelier_there_than_not(
    classifier_folder: Path, tmp_path: Path
) -> None:
    folder = saved_as(classifier_folder, tmp_path / "several", "multi_label_classification", 4)
    loaded = load(folder, CPU)
    [answer] = predict(loaded.model, loaded.tokenizer, ["red word1"])
    logits = torch.tensor(logits_of(folder, "red word1"))
    assert isinstance(answer, SeveralLabels)
    assert answer.labels == ["green", "red"]
    assert list(answer.probabilities.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)


def test_a_regression_gives_a_score(classifier_folder: Path, tmp_path: Path) -> None:
    folder = saved_as(classifier_folder, tmp_path / "score", "regression", 1)
    loaded = load(folder, CPU)
    [answer] = predict(loaded.model, loaded.tokenizer, ["red word1"])
    assert isinstance(answer, OneScore)
    assert answer.score == pytest.approx(logits_of(folder, "red word1")[0], abs=1e-6)


def test_a_config_without_a_problem_type_is_told_by_its_outputs(classifier: PreTrainedModel) -> None:
    classifier.config.problem_type = None
    assert task_of(classifier) == "single_label"
    classifier.config.num_labels = 1
    assert task_of(classifier) == "regression"


def test_an_encoder_without_a_head_is_refused(encoder_folder: Path) -> None:
    with pytest.raises(RefusedError, match="no classification head"):
        load(encoder_folder, CPU)


def test_more_tokens_than_the_model_reads_are_refused(classifier_folder: Path) -> None:
    assert load(classifier_folder, CPU).max_length == 32
    with pytest.raises(RefusedError, match="max_length: the model reads at most 32 tokens"):
        load(classifier_folder, CPU, max_length=33)


# -- the command -----------------------------------------------------------------------------------------


def lines_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_line_of_standard_input_is_a_text(
    classifier_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines_in(monkeypatch, b'red word1\r\n"blue", ?')
    assert main(["predict", str(classifier_folder), "-"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = [logits_of(classifier_folder, text) for text in ("red word1", '"blue", ?')]
    for answer, logits in zip(found, wanted, strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(
            torch.tensor(logits).softmax(-1).tolist(), abs=1e-6
        )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"red\n\nblue\n", "input: line 2: 'text' is empty"),
        (b"red\nblue\n\xff\n", "input: line 3: 'text' is not valid UTF-8"),
        (b"red\x00\n", "input: line 1: 'text' contains a NUL character"),
        (b"red\n" + b"x" * (1 << 21), "input: line 2: longer than 1048576 bytes"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(
    classifier_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    problem: str,
) -> None:
    lines_in(monkeypatch, content)
    assert main(["predict", str(classifier_folder), "-"]) == 1
    assert capsys.readouterr().err.splitlines() == [f"{problem} (correct or remove this line)"]


def test_texts_of_a_file_need_no_labels(
    classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.csv").write_text('number,first,second\n1,red,"word1, ?"\n2,blue,green\n')
    command = ["predict", str(classifier_folder), str(tmp_path / "texts.csv")]
    assert main([*command, "--text", "first", "--text-pair", "second"]) == 0
    first, _ = map(json.loads, capsys.readouterr().out.splitlines())
    wanted = torch.tensor(logits_of(classifier_folder, "red", "word1, ?")).softmax(-1)
    assert list(first["probabilities"].values()) == pytest.approx(wanted.tolist(), abs=1e-6)
    assert main([*command, "--text", "frist"]) == 1
    assert "did you mean 'first'?" in capsys.readouterr().err


def test_a_file_of_answers_appears_whole_or_not_at_all(
    classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, answers = tmp_path / "texts.jsonl", tmp_path / "answers.jsonl"
    answers.write_text("what was here before")
    good = '{"text": "red"}\n' * 600
    texts.write_text(good + '{"text": ""}\n')
    command = ["predict", str(classifier_folder), str(texts), "--output", str(answers)]
    assert main(command) == 1
    assert "input: line 601: 'text' is empty" in capsys.readouterr().err
    assert answers.read_text() == "what was here before"
    assert sorted(tmp_path.iterdir()) == [answers, texts]
    texts.write_text(good)
    assert main(command) == 0
    assert len(answers.read_text().splitlines()) == 600
    assert capsys.readouterr().out == ""


def test_sigterm_leaves_no_part_of_a_file_behind(classifier_folder: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    command = ["predict", str(classifier_folder), "-", "--output", str(answers)]
    with subprocess.Popen([sys.executable, "-m", "mixkd", *command], stdin=subprocess.PIPE) as process:
        try:
            for _ in range(600):
                time.sleep(0.1)
                if any(tmp_path.iterdir()):  # the answers so far, while texts may still come
                    break
            process.terminate()
            assert process.wait(30) == 143
        finally:
            process.kill()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [5, 5000])  # written at the end; while there are more
def test_a_reader_that_has_had_enough_ends_it_quietly(
    classifier_folder: Path, tmp_path: Path, rows: int
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "red"}\n' * rows)
    with subprocess.Popen(
        [sys.executable, "-m", "mixkd", "predict", str(classifier_folder), str(tmp_path / "texts.jsonl")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if rows == 5000:
            assert process.stdout.readline().startswith(b'{"label":')
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
