"""The model card, `README.md`: a report for people, with the metadata that the Hugging Face hub reads."""

from collections.abc import Iterable, Sequence

from huggingface_hub import EvalResult, ModelCardData

from mixkd.contract.data_spec import MetricName, SetName, Task
from mixkd.report.bootstrap import Interval
from mixkd.report.curves import loss_figure, metric_name, score_figure
from mixkd.report.judgement import ModelScores
from mixkd.report.markdown import plain, table
from mixkd.report.schema import ModelCard, Report
from mixkd.report.svg import Figure, draw
from mixkd.training.state import Outcome

_HUB_NAMES: dict[MetricName, str] = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
_DOES: dict[Task, str] = {
    "single_label": "tells which of {classes} classes {texts} belongs to",
    "multi_label": "tells which of {classes} labels {texts} has",
    "regression": "gives {texts} a score",
}
_OPTIONS: dict[Task, str] = {
    "single_label": "",
    "multi_label": ", top_k=None",
    "regression": "",
}
_ANSWERS: dict[Task, str] = {
    "single_label": "It answers with the likeliest class and its probability.",
    "multi_label": "It answers with the probability of every label; here one above 0.5 counts as given.",
    "regression": "It answers with the score, in the units of the data that it was trained on.",
}
_FAMILIES = {
    "bert": "BERT",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "mpnet": "MPNet",
    "albert": "ALBERT",
    "deberta-v2": "DeBERTa",
    "modernbert": "ModernBERT",
}
_PAPER = "[MixKD](https://arxiv.org/abs/2011.00593)"


def model_card(report: Report, pictures: Sequence[str]) -> str:
    """The text of `README.md`.

    Args:
        pictures: names of the files in `curves/` that are to be seen in it.
    """
    sections = [
        _introduction(report),
        _usage(report),
        _results(report),
        _speed(report),
        _making(report, pictures),
        _data(report),
        _limits(report),
        _reproduction(report),
    ]
    return f"---\n{metadata(report).to_yaml()}\n---\n\n" + "\n".join(sections)


def metadata(report: Report) -> ModelCardData:
    """What the hub reads; licence and language are for who publishes the model to say."""
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="custom",
            dataset_name=name,
            dataset_split=name,
            metric_type=_HUB_NAMES.get(metric, metric),
            metric_name=metric_name(metric),
            metric_value=round(interval.value, 6),
        )
        for name, card in report.sets.items()
        for metric, interval in card.student.scores.items()
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["mixkd", "knowledge-distillation", "mixup", report.student.family],
        model_name=_model(report.student),
        eval_results=results,
    )


def curves_of(report: Report) -> dict[str, str]:
    """The learning curves of a report as SVG, by file name."""
    scores = report.sets["validation"].teacher.scores
    # While a model is trained its error is in standard deviations, which no other number here is.
    teacher = {str(metric): interval.value for metric, interval in scores.items() if metric != "rmse"}
    metrics = list(teacher) or ["rmse"]
    figures: dict[str, Figure | None] = {}
    for phase, model, outcome in (("distil", "student", report.distil), ("teach", "teacher", report.teach)):
        if outcome is not None:
            points, kept = report.curves, outcome.best_step
            figures[f"{phase}-validation.svg"] = score_figure(
                points, phase, f"Validation scores of the {model}", kept,
                metrics=metrics, teacher=teacher if phase == "distil" else {},
            )  # fmt: skip
            figures[f"{phase}-loss.svg"] = loss_figure(points, phase, f"Losses of the {model}", kept)
    return {name: draw(figure) for name, figure in figures.items() if figure is not None}


# -- the sections ------------------------------------------------------------------------------------------


def _introduction(report: Report) -> str:
    student, teacher = report.student, report.teacher
    texts = "a pair of texts" if report.data.text_pairs else "a text"
    does = _DOES[report.task].format(classes=len(report.data.labels), texts=texts)
    kept = "" if report.comparison.kept is None else (
        f"On the {_named(report.judged_on)} rows it has {report.comparison.kept:.1%} of its teacher's "
        f"{metric_name(report.comparison.metric)}.\n"
    )  # fmt: skip
    return f"""# {_model(student)}, distilled with MixKD

This model {does}. It has {student.parameters:,} parameters, and was distilled with {_PAPER} (Liang et al.,
ICLR 2021) from {_model(teacher)} with {teacher.parameters:,} parameters.
{kept}"""


def _usage(report: Report) -> str:
    asked = '{"text": "one text", "text_pair": "and another"}' if report.data.text_pairs else '"a text"'
    return f"""## Use

Plain transformers loads the folder that this file lies in, or the `student` folder beside it:

```python
from transformers import pipeline

answer = pipeline("text-classification", model="student", truncation=True{_OPTIONS[report.task]})
print(answer({asked}))
```

{_ANSWERS[report.task]} Texts are cut at {report.recipe.max_length} tokens, as they were in training.
"""


def _results(report: Report) -> str:
    rows = [
        [_named(name), metric_name(metric), _interval(card.teacher.scores[metric]), _interval(ours),
         _interval(card.difference[metric], sign="+")]
        for name, card in report.sets.items()
        for metric, ours in card.student.scores.items()
    ]  # fmt: skip
    flattered = (
        "" if report.judged_on == "test" else
        " There is no test set: the validation rows chose which weights were kept, which flatters."
    )  # fmt: skip
    more = (
        _other_numbers(report) + _baselines(report) + "".join(_classes(report, name) for name in report.sets)
    )
    return f"""## Results

In brackets are 95 % bootstrap intervals over the rows of a set, and of the difference one over the same
resamples of both models. They are about which rows were drawn; another seed may differ by more.{flattered}

{table(["set", "metric", "teacher", "student", "student − teacher"], rows, 2)}{more}"""


def _other_numbers(report: Report) -> str:
    rows = []
    for name, card in report.sets.items():
        agreed = card.agreement.same_answer if card.agreement.pearson is None else card.agreement.pearson
        losses = [f"{scores.loss:.4f}" for scores in (card.teacher, card.student)]
        errors = [_calibration(scores) for scores in (card.teacher, card.student)]
        rows.append([_named(name), f"{card.rows:,}", *losses, *errors, f"{agreed:.4f}"])
    agreement = "correlation with teacher" if report.task == "regression" else "same answer as teacher"
    head = ["set", "rows", "loss, teacher", "loss, student", "ECE, teacher", "ECE, student", agreement]
    return f"""
The loss is that of the labels; ECE is the expected calibration error, with 15 bins.

{table(head, rows)}"""


def _baselines(report: Report) -> str:
    rows = [
        [baseline, _named(name), metric_name(metric), _interval(interval),
         _interval(scores.difference[metric], sign="+")]
        for baseline, card in report.baselines.items()
        for name, scores in card.sets.items()
        for metric, interval in scores.scores.items()
    ]  # fmt: skip
    if not rows:
        return ""
    return f"""
Students of the same start and batches, trained with simpler losses for as many steps, unless one ended
early:

{table(["loss", "set", "metric", "baseline", "student − baseline"], rows, 3)}"""


def _classes(report: Report, name: SetName) -> str:
    rows = [
        [plain(card.label), f"{card.rows:,}"]
        + [f"{getattr(model, score):.4f}" for score in ("precision", "recall", "f1")
           for model in (card.teacher, card.student)]
        for card in report.sets[name].classes
    ]  # fmt: skip
    if not rows:
        return ""
    scores = [
        f"{score}, {model}" for score in ("precision", "recall", "F1") for model in ("teacher", "student")
    ]
    return f"""
<details><summary>Each class of the {_named(name)} rows</summary>

{table(["label", "rows", *scores], rows)}
</details>
"""


def _speed(report: Report) -> str:
    teacher, student, ratio = report.teacher, report.student, report.comparison
    rows = [
        ["layers", f"{teacher.layers}", f"{student.layers}", ""],
        ["hidden size", f"{teacher.hidden_size}", f"{student.hidden_size}", ""],
        ["parameters", f"{teacher.parameters:,}", f"{student.parameters:,}", f"{ratio.parameters:.3f}"],
        ["bytes of weights", f"{teacher.bytes:,}", f"{student.bytes:,}", f"{ratio.bytes:.3f}"],
        ["latency of one text, median", *(f"{m.speed.latency_ms_p50:.2f} ms" for m in (teacher, student)),
         f"{ratio.latency:.3f}"],
        ["latency of one text, 95 %", *(f"{m.speed.latency_ms_p95:.2f} ms" for m in (teacher, student)), ""],
        ["texts a second, 32 at once", *(f"{m.speed.examples_per_second:,.0f}" for m in (teacher, student)),
         f"{ratio.throughput:.3f}"],
    ]  # fmt: skip
    return f"""## Size and speed

Measured in turns on {plain(report.device)}, {report.threads} thread(s); tokenising is not counted.

{table(["", "teacher", "student", "student / teacher"], rows)}{_onnx(report)}"""


def _onnx(report: Report) -> str:
    rows = []
    for file in report.onnx:
        kept = "kept" if file.kept else f"left out: {plain(file.reason or '')}"
        agreed = "" if file.check is None else f"{file.check.agreement:.4f}"
        faster = "" if file.check is None else f"{file.check.latency_ms_p50:.2f} ms"
        rows.append([file.variant, kept, f"{file.bytes:,}" if file.bytes else "", agreed, faster])
    if not rows:
        return ""
    head = ["ONNX", "in the folder `onnx`", "bytes", "same answers as torch", "latency on the CPU"]
    return f"\n{table(head, rows, 2)}"


def _making(report: Report, pictures: Sequence[str]) -> str:
    variant = [[name.replace("_", " "), plain(_said(value))] for name, value in report.variant]
    trainings = [("student", report.distil)] if report.teach is None else [
        ("teacher", report.teach), ("student", report.distil)
    ]  # fmt: skip
    trainings += [(f"baseline {name}", card.outcome) for name, card in report.baselines.items()]
    gaps = [
        [model, f"{gap.train_loss:.4f}", f"{gap.validation_loss:.4f}", f"{gap.gap:+.4f}"]
        for model, gap in report.generalisation_gap.items()
    ]
    made = [[plain(card.kind), f"{card.made:,}", f"`{card.key[:16]}`"] for card in report.augmenters]
    augmented = f"\n{table(['augmenter', 'rows made', 'key'], made)}" if made else ""
    shown = "".join(f"\n![{_caption(name)}](curves/{name})\n" for name in pictures)
    return f"""## How it was made

{table(["what", "how"], variant, 2)}
{table(["training", "ended", "steps", "kept step", "seconds"], [_training(*each) for each in trainings], 2)}
{_notes(outcome for _, outcome in trainings)}{augmented}
The generalisation gap, train minus validation loss, which is what the paper's theory is about:

{table(["model", "train loss", "validation loss", "gap"], gaps)}{shown}"""


def _data(report: Report) -> str:
    used, files = report.data.sets, report.data.files
    rows = [
        [_named(name), f"`{files[name].sha256}`" if name in files else "", f"{count:,}"]
        for name, count in used.rows.items()
    ]
    origin = ""
    if used.validation_from == "train":
        origin += " The validation rows were set aside from the training rows."
    if used.train_of != used.rows["train"]:
        origin += f" Of {used.train_of:,} training rows some were drawn."
    if skipped := sum(report.data.skipped_rows.values()):
        origin += f" {skipped:,} rows that could not be read were left out."
    if twice := report.data.texts_in_two_sets:
        origin += f" {twice:,} texts are in more than one set, which flatters."
    labels = ", ".join(map(plain, report.data.labels))
    named = "" if report.task == "regression" else f"\nLabels: {labels}.\n"
    return f"""## Data

What the data are, where they come from and whom they concern is for their owner to say.{origin}

{table(["set", "SHA-256 of the file", "rows"], rows, 2)}{named}"""


def _limits(report: Report) -> str:
    return f"""## Limits

The student imitates its teacher, mistakes included. The numbers above are of one seed, and of rows like those
that it was trained on; of others nothing is known. The paper's theorems are about expectations under
assumptions, and promise nothing of this model. Whatever is longer than {report.recipe.max_length} tokens is
cut.
"""


def _reproduction(report: Report) -> str:
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in report.versions.items())
    return f"""## Reproduce

```
{report.command}
```

with the run's resolved.json, or with the recipe in report.json, and with the data and models whose hashes
stand there. The seed is {report.seed}; {versions}, on {plain(report.device)}.
"""


# -- what stands in a cell ---------------------------------------------------------------------------------


def _interval(interval: Interval, sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.4f}" for number in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _calibration(scores: ModelScores) -> str:
    return "" if scores.ece is None else f"{scores.ece:.4f}"


def _training(model: str, outcome: Outcome) -> list[str]:
    ended = {"end": "as planned", "early": "early: no better evaluation came", "asked": "when asked"}
    return [
        model, ended[outcome.stopped], f"{outcome.steps:,}", f"{outcome.best_step:,}",
        f"{outcome.seconds:,.0f}",
    ]  # fmt: skip


def _notes(outcomes: Iterable[Outcome]) -> str:
    return "".join(f"- {plain(note)}\n" for outcome in outcomes for note in outcome.notes)


def _said(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _named(name: str) -> str:
    return name.replace("_", " ")


def _model(card: ModelCard) -> str:
    name = _FAMILIES.get(card.family, card.family)
    return f"{name} of {card.layers} layer{'' if card.layers == 1 else 's'}"


def _caption(file: str) -> str:
    phase, _, what = file.removesuffix(".svg").partition("-")
    return f"{what} curves of the {'teacher' if phase == 'teach' else 'student'}"
