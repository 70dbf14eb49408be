"""The table as Markdown, with the paper's own rows beside and below it and what tells the two apart."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.paper.cells import AUGMENTED, TEACHER, Cell
from benchmarks.paper.summary import PUBLISHED, Line, Spread
from benchmarks.paper.tasks import Benchmark

NOT_RUN = "not run"
NO_TRANSLATION = "not run: no translation model"

HEAD = """# What mixup brings to a distilled student

Students trained by labels alone (FT), by a teacher's answers to real rows too (KD), to mixed rows (TMKD), and
to mixed rows with mixed labels (SM+TMKD, which is MixKD); +BT adds back-translated rows. All students of a
task and a share of its data start from the embeddings, the first layers and the head of one fine-tuned
teacher, which was trained on that share, and have the same budget. The learning rate is the best
of four on the validation rows of trec6, for FT; nothing was tuned for another method or task.

Numbers are of the evaluation set, in hundredths but for rmse, as mean ± standard deviation over seeds. A seed
decides batches, partners, λ and dropout. Students of one seed see the same batches, so `− FT` and `− KD` are
the mean ± standard deviation of paired differences, of the first number. The share of the data and the
teacher are the same for all seeds: what another sample or another teacher would change is not in the spread.
"""

GLANCE = """## At a glance

Differences of the first number of each task, seed by seed: mean ± standard deviation, and in how many seeds
the first method is the better one. With three seeds the 95 % interval of a mean is ± 2.5 standard deviations,
and two equal methods would agree in sign over all three in a quarter of the cases.
"""

DIFFERENCES = """## What is not as in the paper

- **Data.** {data} The validation rows choose the best epoch, and are not cut with the share.
- **Teacher.** {teacher}; the paper's is BERT-base (12 layers, width 768), fine-tuned.
- **Students** have {layers} layers of the *fine-tuned* teacher. The paper does not say which weights its own
  start from.
- **Budget.** {budget} A row of back-translation counts as any other, so +BT has about twice the steps. The
  paper does not state its own budget.
- **KD** has the mean squared error of logits, as TMKD has; the paper quotes KD and PKD from Sun et al.
  (2019), with softened cross-entropy.
- **Seeds.** The paper's table of the dev sets has one number each.
- The paper's gains of 2 to 4 points in limited data are of SM+TMKD+BT over FT without BT.
"""


def markdown(tasks: Sequence[Benchmark], lines: Sequence[Line], cells: Sequence[Cell]) -> str:
    """The whole page."""
    parts = [HEAD, _glance(lines)]
    for task in tasks:
        mine = [line for line in lines if line.task == task.name]
        if mine:
            parts.append(_task(task, mine))
    parts += [_differences(tasks, cells), "## The paper's own rows\n", f"{PUBLISHED['source']}\n"]
    parts += [_published(PUBLISHED[name]) for name in PUBLISHED if name != "source"]
    parts.append(_origin(cells))
    return "\n".join(parts)


def _glance(lines: Sequence[Line]) -> str:
    """Every comparison of two methods: the mean difference, and how many of its seeds are better."""
    compared = [(method, "FT") for method in ("KD", "SM+TMKD")] + [(m, "KD") for m in ("TMKD", "SM+TMKD")]
    rows, outcomes = [], {pair: Counter[str]() for pair in compared}
    for task, share in dict.fromkeys((line.task, line.share) for line in lines):
        found = {line.method: line for line in lines if (line.task, line.share) == (task, share)}
        row = [task, f"{100 * share:g} %"]
        for method, other in compared:
            difference = found[method].minus_ft if other == "FT" else found[method].minus_kd
            if difference is not None and len(difference.values) > 1:
                outcomes[method, other][_outcome(difference)] += 1
            row.append(_judged(difference))
        rows.append(row)
    total = [", ".join(f"{n} {what}" for what, n in outcomes[pair].most_common()) for pair in compared]
    rows.append(["lines in which all (of several) seeds are", "", *total])
    head = ["task", "data", *(f"{method} − {other}" for method, other in compared)]
    return f"{GLANCE}\n{_grid(head, rows)}"


def _judged(difference: Spread | None) -> str:
    if difference is None:
        return ""
    better = sum(value > 0 for value in difference.values)
    return f"{_difference(difference)} ({better} of {len(difference.values)})"


def _outcome(difference: Spread) -> str:
    if all(value > 0 for value in difference.values):
        return "better"
    return "worse" if all(value < 0 for value in difference.values) else "not alike"


def _task(task: Benchmark, lines: Sequence[Line]) -> str:
    several = len({name for name, _ in task.columns}) > 1
    scores = [f"{name} {metric}" if several else metric for name, metric in task.columns]
    paper = [f"paper, {task.counterpart}"] if task.counterpart else []
    head = ["data", "rows", "method", *scores, "seeds", "− FT", "− KD", *paper]
    translated = any(line.scores for line in lines if line.method.endswith(AUGMENTED))
    rows = [_cells(task, line, NOT_RUN if translated else NO_TRANSLATION) for line in lines]
    return f"## {task.name}: {task.title}\n\n{_grid(head, rows)}"


def _cells(task: Benchmark, line: Line, no_augmented: str) -> list[str]:
    scores = [_spread(score) for score in line.scores]
    if not scores:
        why = no_augmented if line.method.endswith(AUGMENTED) else NOT_RUN
        scores = [why, *[""] * (len(task.columns) - 1)]
    row = [
        f"{100 * line.share:g} %",
        f"{line.train_rows:,}" if line.train_rows else "",
        line.method,
        *scores,
        str(len(line.seeds) or ""),
        _difference(line.minus_ft),
        _difference(line.minus_kd),
    ]
    if task.counterpart:
        row.append("/".join(f"{value:.2f}" for value in line.published or ()))
    return row


def _spread(score: Spread) -> str:
    return f"{score.mean:.2f}" + ("" if score.sd is None else f" ± {score.sd:.2f}")


def _difference(score: Spread | None) -> str:
    if score is None:
        return ""
    return f"{score.mean:+.2f}" + ("" if score.sd is None else f" ± {score.sd:.2f}")


def _published(table: dict[str, Any]) -> str:
    rows = [
        [method, *("/".join(f"{value:.{table['digits']}f}" for value in values) for values in found)]
        for method, found in table["rows"].items()
    ]
    return f"{table['what']}:\n\n{_grid(['method', *table['tasks']], rows)}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["-"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _differences(tasks: Sequence[Benchmark], cells: Sequence[Cell]) -> str:
    used = {cell.key.task for cell in cells}
    data = "; ".join(f"{task.name}: {task.title}" for task in tasks if task.name in used)
    students = [cell.recipe for cell in cells if cell.key.method != TEACHER]
    layers = {str(recipe.student.layers) for recipe in students}
    return DIFFERENCES.format(
        data=f"{data}.",
        teacher=", ".join(sorted({cell.teacher for cell in cells})),
        layers=" or ".join(sorted(layers)),
        budget=_budget(cells),
    )


def _budget(cells: Sequence[Cell]) -> str:
    settings = {
        f"batches of {recipe.distil.batch_size}, learning rate {recipe.distil.learning_rate:g}, "
        f"{recipe.runtime.precision}"
        for recipe in (cell.recipe for cell in cells)
    }
    common = "; ".join(sorted(settings))
    real = [cell for cell in cells if not cell.added_rows]
    epochs = {(cell.key.task, -cell.key.share): (cell.epochs, cell.steps) for cell in real}
    each = ", ".join(
        f"{task} {-100 * share:g} %: {epochs} ({steps} steps)"
        for (task, share), (epochs, steps) in sorted(epochs.items())
    )
    return f"AdamW, {common}, linear warm-up over a tenth and decay to zero; epochs: {each}."


def _origin(cells: Sequence[Cell]) -> str:
    """Where it was computed, and by what."""

    def counted(values: Sequence[str]) -> str:
        return "; ".join(f"{value} ({count} cells)" for value, count in Counter(values).most_common())

    machines = [f"{m.device}, {m.cores} cores, {m.threads} threads" for m in (cell.machine for cell in cells)]
    rows = [
        ["cells", str(len(cells))],
        ["minutes", f"{sum(cell.training_seconds + cell.scoring_seconds for cell in cells) / 60:.0f}"],
        ["machine", counted(machines)],
        ["commit", counted([cell.commit for cell in cells])],
        ["versions", counted([", ".join(f"{k} {v}" for k, v in cell.versions.items()) for cell in cells])],
    ]
    return f"## Where the numbers come from\n\n{_grid(['', ''], rows)}"
