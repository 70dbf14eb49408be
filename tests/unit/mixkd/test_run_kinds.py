"""Whole runs of other tasks, other students, more rows: what comes out answers in the data's own words."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, pipeline

from mixkd.contract.messages import Message, Progress
from mixkd.contract.problems import RefusedError
from mixkd.contract.spec import RunSpec
from mixkd.report.schema import Report
from mixkd.reporter import Reporter
from mixkd.run import run

from .conftest import COLOURS, MakeSpec, save_tokenizer, tiny_config


def with_data(spec: RunSpec, folder: Path, label: Callable[[list[str]], object], **data: object) -> RunSpec:
    """The same run on texts that hold any of the colours, labelled by which they hold."""
    rng = random.Random(0)
    files = {}
    for name, rows in (("train", 160), ("validation", 40), ("test", 60)):
        lines = []
        for _ in range(rows):
            colours = rng.sample(COLOURS, rng.randint(0, 3))
            words = [*colours, *(f"word{rng.randrange(30)}" for _ in range(4))]
            rng.shuffle(words)
            lines.append(json.dumps({"text": " ".join(words), "label": label(colours)}))
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("\n".join(lines) + "\n")
    changed = spec.data.model_copy(update={"files": files})
    return RunSpec.model_validate(
        spec.model_copy(update={"data": changed}).model_dump() | {"data": {**changed.model_dump(), **data}}
    )


LONG = {"epochs": 12, "batch_size": 16, "learning_rate": 5e-3}


def score_of(colours: list[str]) -> float:
    """Between 50 and 350: nothing that a head of unit scale could reach in a few steps."""
    return 50 + 100.0 * len(colours)


def test_a_regression_answers_in_the_units_of_its_data(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    spec = with_data(make_spec(teach=LONG, distil=LONG), tmp_path, score_of, task="regression")
    report = run(spec, tmp_path, reporter, "cpu")
    assert list(report.sets["test"].student.scores) == ["pearson", "spearman", "rmse"]
    assert report.sets["test"].student.scores["pearson"].value > 0.8
    assert report.sets["test"].student.scores["rmse"].value < 60  # a constant answer has about 100
    found = pipeline("text-classification", model=str(tmp_path / "student"), function_to_apply="none")(
        ["word1 word2 word3", "red word1 green word2 blue"]
    )
    assert [answer["label"] for answer in found] == ["score", "score"]
    assert found[0]["score"] == pytest.approx(50, abs=80)
    assert found[1]["score"] == pytest.approx(350, abs=80)
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["problem_type"] == "regression"


def test_a_regression_teacher_is_imitated_in_its_own_units(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    """Its head is changed for the job and changed back: what it answers must be what it answered."""
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(tiny_config(num_labels=1, problem_type="regression"))
    with torch.no_grad():
        teacher.classifier.bias.fill_(200)
        teacher.classifier.weight.mul_(2000)
    teacher.save_pretrained(tmp_path / "teacher")
    save_tokenizer(tmp_path / "teacher")
    one_epoch = {"epochs": 1, "batch_size": 16}
    spec = with_data(
        make_spec(teacher=tmp_path / "teacher", distil=one_epoch, student={"layers": 4}),
        tmp_path, score_of, task="regression",
    )  # fmt: skip
    zero = spec.recipe.distil.model_copy(update={"learning_rate": 1e-12})
    recipe = spec.recipe.model_copy(update={"distil": zero})
    run(spec.model_copy(update={"recipe": recipe}), tmp_path, reporter, "cpu")
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    tokens = torch.tensor([[2, 7, 8, 9, 3]])
    torch.testing.assert_close(student(tokens).logits, teacher.eval()(tokens).logits, rtol=1e-4, atol=1e-2)


def test_several_labels_are_told_one_by_one(make_spec: MakeSpec, tmp_path: Path, reporter: Reporter) -> None:
    spec = with_data(make_spec(teach=LONG, distil=LONG), tmp_path, list, task="multi_label")
    report = run(spec, tmp_path, reporter, "cpu")
    assert report.sets["test"].student.scores["micro_f1"].value > 0.8
    found = pipeline("text-classification", model=str(tmp_path / "student"), top_k=None)(["red word1 blue"])[
        0
    ]
    assert {answer["label"] for answer in found[:2]} == {"red", "blue"}  # the likeliest first
    assert sum(answer["score"] for answer in found) > 1.2  # no share of one whole: each label is its own


@pytest.mark.parametrize(
    ("student", "layers"),
    [
        ({"layers": 2, "pick": "even"}, (0, 3)),
        ({"layers": [1, 3]}, (1, 3)),
        ({"layers": 2, "pick": "last"}, (2, 3)),
    ],
)
def test_a_student_starts_from_the_layers_that_were_asked_for(
    *,
    make_spec: MakeSpec,
    classifier_folder: Path,
    tmp_path: Path,
    reporter: Reporter,
    student: dict[str, object],
    layers: tuple[int, ...],
) -> None:
    distil = {"epochs": 1, "learning_rate": 1e-12}
    run(make_spec(teacher=classifier_folder, student=student, distil=distil), tmp_path, reporter, "cpu")
    made = load_file(tmp_path / "student" / "model.safetensors")
    source = load_file(classifier_folder / "model.safetensors")
    for place, layer in enumerate(layers):
        torch.testing.assert_close(
            made[f"bert.encoder.layer.{place}.output.dense.weight"],
            source[f"bert.encoder.layer.{layer}.output.dense.weight"],
            rtol=1e-6, atol=1e-8,
        )  # fmt: skip


@pytest.fixture
def other_encoder(tmp_path: Path) -> Path:
    """Narrower than the teacher, and with another vocabulary: what is one word there is two here."""
    from transformers import BertModel, BertTokenizer

    folder = tmp_path / "other"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "r", "##ed", "gr", "##een", "bl", "##ue", "word"]
    vocabulary = {word: n for n, word in enumerate([*words, *(f"##{n}" for n in range(30))])}
    torch.manual_seed(5)
    BertModel(
        tiny_config(vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=2, intermediate_size=16)
    ).save_pretrained(folder)
    BertTokenizer(vocab=vocabulary, model_max_length=32).save_pretrained(folder)
    return folder


def test_a_student_of_another_width_and_tokenizer(
    make_spec: MakeSpec, classifier_folder: Path, other_encoder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    spec = make_spec(teacher=classifier_folder, student={"init": "model"})
    report = run(spec.model_copy(update={"student": other_encoder}), tmp_path, reporter, "cpu")
    assert (report.student.hidden_size, report.student.layers, report.teacher.hidden_size) == (8, 2, 16)
    vocabulary = json.loads((tmp_path / "student" / "tokenizer.json").read_text())["model"]["vocab"]
    assert "##een" in vocabulary  # its own tokenizer goes with it
    answer = pipeline("text-classification", model=str(tmp_path / "student"))("word1 red")
    assert answer[0]["label"] in {"none", *COLOURS}


def test_a_student_may_start_from_the_weights_that_the_teacher_had_before(
    make_spec: MakeSpec, encoder_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    distil = {"epochs": 1, "learning_rate": 1e-12}
    run(make_spec(student={"layers": 2, "init": "origin"}, distil=distil), tmp_path, reporter, "cpu")
    made = load_file(tmp_path / "student" / "model.safetensors")
    before = load_file(encoder_folder / "model.safetensors")
    torch.testing.assert_close(
        made["bert.encoder.layer.0.output.dense.weight"], before["encoder.layer.0.output.dense.weight"],
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip


def test_a_student_from_a_config_has_its_sizes(
    make_spec: MakeSpec, classifier_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    student = {"init": "config", "layers": 1, "config": {"hidden_size": 8, "intermediate_size": 12}}
    report = run(make_spec(teacher=classifier_folder, student=student), tmp_path, reporter, "cpu")
    assert (report.student.hidden_size, report.student.layers) == (8, 1)


def test_baselines_are_trained_beside_the_student_and_compared_with_it(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    report = run(make_spec(baselines=["finetune", "kd", "tmkd"]), tmp_path, reporter, "cpu")
    assert list(report.baselines) == ["finetune", "kd", "tmkd"]
    assert {card.outcome.steps for card in report.baselines.values()} == {report.distil.steps}
    for card in report.baselines.values():
        assert set(card.sets) == {"validation", "test"}
    assert {point.phase for point in report.curves} == {"teach", "distil", "finetune", "kd", "tmkd"}
    last = {point.phase: point.step for point in report.curves}
    assert last["kd"] == report.distil.steps


def test_the_baseline_of_the_same_loss_is_the_student_itself(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    """The same start, batches, pairs, λ and dropout: no difference is left but that of the loss."""
    report = run(make_spec(preset="tmkd", baselines=["tmkd"]), tmp_path, reporter, "cpu")
    assert report.baselines["tmkd"].outcome.validation == report.distil.validation


def test_texts_without_labels_become_training_rows_of_the_student(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Message] = []
    reporter = Reporter(told.append)
    monkeypatch.setenv("MIXKD_CACHE", str(tmp_path / "cache"))
    texts = tmp_path / "more.jsonl"
    texts.write_text("".join(json.dumps({"text": f"word{n} red word{n + 1}"}) + "\n" for n in range(20)))
    spec = make_spec().model_dump() | {"augment": [{"kind": "unlabelled", "file": texts}]}
    report = run(RunSpec.model_validate(spec), tmp_path, reporter, "cpu")
    assert report.augmenters[0].made == 20
    assert report.teach is not None
    assert report.teach.steps == 16  # 61 rows in batches of 8, twice: the teacher has the real ones only
    assert report.distil.steps == 2 * -(-81 // 8)
    made = [m.step for m in told if isinstance(m, Progress) and m.phase == "augment"]
    assert made[-1] == 20
    assert list((tmp_path / "cache" / "augmented").iterdir()) != []  # another run finds them there


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_trained(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "red"}\n')
    monkeypatch.setenv("MIXKD_CACHE", str(tmp_path / "texts.jsonl"))
    spec = make_spec().model_dump() | {"augment": [{"kind": "unlabelled", "file": tmp_path / "texts.jsonl"}]}
    with pytest.raises(RefusedError, match="MIXKD_CACHE"):
        run(RunSpec.model_validate(spec), tmp_path, reporter, "cpu")
    assert not (tmp_path / "checkpoints").exists()


def test_limited_data_is_what_both_models_learn_from(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    report = run(make_spec(train_examples=24), tmp_path, reporter, "cpu")
    assert report.data.sets.rows["train"] == 24
    assert report.data.sets.train_of == 61
    assert report.teach is not None
    assert (report.teach.steps, report.distil.steps) == (6, 6)


def test_class_weights_smoothing_and_every_open_choice_are_in_the_report(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    spec = make_spec(
        mixup={"partner": "set", "ratio": 2, "lambda_per": "batch", "mix_at": "embedding"},
        loss={"class_weights": "balanced", "label_smoothing": 0.1, "distance": "kl", "temperature": 2},
    )
    run(spec, tmp_path, reporter, "cpu")
    variant = Report.model_validate_json((tmp_path / "report.json").read_bytes()).variant
    told = json.dumps(variant.model_dump(), ensure_ascii=False)
    for what in ("whole", "2 mixed", "LayerNorm", "rarer", "10", "KL"):
        assert what in told, what


def test_a_set_without_a_difference_between_scores_is_refused(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    spec = with_data(make_spec(), tmp_path, lambda _: 3.0, task="regression")
    with pytest.raises(RefusedError, match="same score"):
        run(spec, tmp_path, reporter, "cpu")


def test_more_evaluation_sets_are_judged_too(make_spec: MakeSpec, tmp_path: Path, reporter: Reporter) -> None:
    spec = make_spec()
    files = dict(spec.data.files) | {"mismatched": spec.data.files["test"]}
    data = spec.data.model_copy(update={"files": files})
    report = run(spec.model_copy(update={"data": data}), tmp_path, reporter, "cpu")
    assert report.sets["mismatched"].student.loss == pytest.approx(report.sets["test"].student.loss)
    assert np.isfinite(report.sets["mismatched"].student.loss)


def test_f1_is_that_of_the_class_that_the_data_calls_second(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    """Whatever the order of a published teacher's outputs; this one says `spam` to every text."""
    teacher = BertForSequenceClassification(
        tiny_config(id2label={0: "spam", 1: "ham"}, label2id={"spam": 0, "ham": 1})
    )
    with torch.no_grad():
        teacher.classifier.weight.zero_()
        teacher.classifier.bias.copy_(torch.tensor([5.0, -5.0]))
    teacher.save_pretrained(tmp_path / "teacher")
    save_tokenizer(tmp_path / "teacher")
    spec = with_data(
        make_spec(teacher=tmp_path / "teacher", distil={"epochs": 1, "learning_rate": 1e-12}),
        tmp_path, lambda colours: "spam" if colours else "ham",
        metrics=["f1", "accuracy"], labels=["ham", "spam"],
    )  # fmt: skip
    report = run(spec, tmp_path, reporter, "cpu")
    assert report.data.labels == ["ham", "spam"]
    scores = report.sets["test"].teacher.scores
    share = scores["accuracy"].value  # of `spam`, to which every answer goes
    assert scores["f1"].value == pytest.approx(2 * share / (1 + share))
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["id2label"] == {"0": "ham", "1": "spam"}


def test_scores_that_float32_cannot_tell_apart_are_refused(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    spec = with_data(make_spec(), tmp_path, lambda colours: 1e8 + len(colours), task="regression")
    with pytest.raises(RefusedError, match="float32"):
        run(spec, tmp_path, reporter, "cpu")
