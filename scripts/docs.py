"""Writes the pages of docs/ that are made from the code, so that they cannot disagree with it.

`python scripts/docs.py` writes them; a test compares. Generated are recipe.md, settings.md, report.md and
report.schema.json of docs/reference, and the parts of other pages between `<!-- generated: NAME -->` and
`<!-- end -->`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
from pydantic import BaseModel, SecretStr

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("api", "worker", "core", "mixkd", "mixkd_client")
Schema = dict[str, Any]
Row = tuple[str, ...]


def pages() -> dict[Path, str]:
    """Every page that is generated, wholly or in part, with the text that it should have."""
    from core.config import Settings
    from mixkd.contract.spec import DistilSpec
    from mixkd.estimate.schema import Estimate
    from mixkd.report.schema import Report

    reference = ROOT / "docs" / "reference"
    architecture = ROOT / "docs" / "architecture.md"
    teachers = ROOT / "docs" / "how-to" / "register-a-teacher.md"
    command_line = reference / "command-line.md"
    return {
        reference / "recipe.md": RECIPE + fields(DistilSpec, defaults=True),
        reference / "settings.md": SETTINGS + settings(Settings),
        reference / "report.md": REPORT + fields(Report, defaults=False),
        reference / "report.schema.json": json.dumps(
            Report.model_json_schema(mode="serialization"), indent=2, ensure_ascii=False
        )
        + "\n",
        architecture: _filled(architecture, states=states(), imports=imports()),
        teachers: _filled(teachers, families=families()),
        command_line: _filled(command_line, **flags(), estimated=fields(Estimate, defaults=False)),
    }


def _filled(page: Path, **parts: str) -> str:
    """A page with its generated parts made anew."""
    text = page.read_text(encoding="utf-8")
    for name, made in parts.items():
        before, start, rest = text.partition(f"<!-- generated: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert end, f"{page} has no place for {name}"
        text = before + start + made + end + after
    return text


RECIPE = """# The recipe

What `POST /v1/jobs` takes as `recipe`, and `python -m mixkd run` as `recipe` in its file. Every field may be
left out. A field that is not in this table is refused: a typo must not be ignored.

"""
SETTINGS = """# Settings

Environment variables of the service's processes. `mixkd-server up` sets the database, the broker, the storage
and the work directory by itself, unless they are set.

One more is read by the trainer alone, to which a worker hands it on: `MIXKD_DEVICE` (`cpu`, `cuda`, `cuda:1`)
says what it runs on; unset, a GPU where there is one. `python -m mixkd run --device` overrides it.

"""
REPORT = """# The report card

`GET /v1/jobs/{id}/report`, and `report.json` of `python -m mixkd run`. All models answered the same rows
through the same code, and were timed in turns on the same machine. Beside it a run writes `README.md`, a
model card for the Hugging Face hub, and learning curves in `curves/`.

An interval holds the middle 95 % of 1000 bootstrap resamples of a set's rows. All models are scored on the
same resamples, so that a difference is a paired one. It is about which rows were drawn; another seed may
differ by more. A metric that would divide by zero, such as a correlation with an answer that never changes,
is 0.

`.*` stands for each key of an object, `[]` for each item of a list. `recipe` is the whole
[recipe](recipe.md), with all that was left open chosen. For machines there is a
[JSON schema](report.schema.json).

"""


def fields(model: type[BaseModel], *, defaults: bool) -> str:
    """A table of a model's fields; those of models inside it have dotted names."""
    schema = model.model_json_schema()
    schema["properties"].pop("recipe", None)  # it has a page of its own
    head = ("field", "value", "default", "meaning") if defaults else ("field", "value", "meaning")
    rows: list[Row] = [
        (f"`{name}`", kind(leaf), *([_default(default)] if defaults else []), leaf.get("description", ""))
        for name, leaf, default in _leaves(schema, schema, "", model().model_dump() if defaults else None)
    ]
    return _table(head, rows)


def settings(model: type[BaseModel]) -> str:
    """A table of environment variables."""
    properties = model.model_json_schema()["properties"]
    rows: list[Row] = []
    for name, leaf in properties.items():
        default = model.model_fields[name].default
        shown = default.get_secret_value() if isinstance(default, SecretStr) else leaf.get("default")
        rows.append((f"`MIXKD_{name.upper()}`", kind(leaf), _default(shown), leaf.get("description", "")))
    return _table(("variable", "value", "default", "meaning"), rows)


def _leaves(schema: Schema, root: Schema, prefix: str, default: Any) -> Iterator[tuple[str, Schema, Any]]:
    for name, part in schema["properties"].items():
        given = default.get(name) if isinstance(default, dict) else None
        inner = _resolved(part, root)
        if "properties" in inner:
            yield f"{prefix}{name}", {"type": "", "description": _meaning(part, inner)}, None
            yield from _leaves(inner, root, f"{prefix}{name}.", given)
        elif "properties" in (each := _resolved((held := _held(inner))[0], root)):
            yield f"{prefix}{name}", {"type": "", "description": _meaning(part, each)}, None
            yield from _leaves(each, root, f"{prefix}{name}{held[1]}.", None)
        else:
            yield f"{prefix}{name}", {**inner, **part}, given


def _held(part: Schema) -> tuple[Schema, str]:
    """What each value of an object or each item of a list is, and how a name says so."""
    for option in (part, *part.get("anyOf", ())):
        if isinstance(items := option.get("items"), dict):
            return items, "[]"
        if isinstance(values := _values(option), dict):
            return values, ".*"
    return {}, ""


def _values(part: Schema) -> Any:
    """What each value of an object is; its keys may have to follow a pattern."""
    return part.get("additionalProperties") or next(iter(part.get("patternProperties", {}).values()), None)


def _meaning(part: Schema, inner: Schema) -> str:
    """What the model says of itself, and what the field that holds it adds."""
    own, added = inner.get("description", ""), part.get("description", "")
    return f"{own.removesuffix('.')}; {added}" if own and added and own != added else own or added


def _resolved(part: Schema, root: Schema) -> Schema:
    """What a part refers to; of `X | None` the X."""
    for option in part.get("anyOf", ()):
        if "$ref" in option:
            part = option
    if isinstance(reference := part.get("$ref"), str):
        found: Schema = root["$defs"][reference.rpartition("/")[2]]
        return found
    return part


def kind(leaf: Schema) -> str:
    """A field's type and limits in words: `integer, at least 1, at most 1000`."""
    if "enum" in leaf:
        return ", ".join(f"`{value}`" for value in leaf["enum"])
    if "const" in leaf:
        return f"`{leaf['const']}`"
    if "anyOf" in leaf:
        return " or ".join(kind(option) for option in leaf["anyOf"])
    if leaf.get("format") == "password":
        return "string, kept secret"
    name = str(leaf.get("format" if leaf.get("type") == "string" else "type", leaf.get("type", "any")))
    if name == "array":
        name = f"list of {kind(leaf.get('items', {}))}"
    if name == "object" and isinstance(values := _values(leaf), dict):
        name = f"object of {kind(values)}"
    limits = [
        f"{words} {_number(leaf[key])}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in leaf
    ]
    return ", ".join([name, *limits])


def states() -> str:
    """The states of a job as a mermaid diagram."""
    from core.jobs.states import FINAL, TRANSITIONS, JobStatus

    lines = [f"    [*] --> {JobStatus.QUEUED}"]
    for before in JobStatus:
        lines += [f"    {before} --> {after}" for after in JobStatus if after in TRANSITIONS[before]]
    lines += [f"    {status} --> [*]" for status in JobStatus if status in FINAL]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def families() -> str:
    """The encoders that a teacher may be."""
    from mixkd.contract.families import FAMILIES

    return "    " + ", ".join(FAMILIES) + "\n"


def flags() -> dict[str, str]:
    """What each command of `python -m mixkd` takes."""
    from mixkd.cli.parser import parser

    [commands] = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return {
        name: _table(
            ("argument", "meaning"),
            [
                (f"`{' '.join([*action.option_strings, *filter(None, [action.metavar])])}`", action.help)
                for action in command._actions
                if action.dest != "help"
            ],
        )
        for name, command in commands.choices.items()
    }


def imports() -> str:
    """Which package imports which, two levels deep; the contract of the trainer counts as a package."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    edges: dict[str, set[str]] = {}
    for module in graph.modules:
        edges.setdefault(_part(module), set()).update(
            _part(imported) for imported in graph.find_modules_directly_imported_by(module)
        )
    width = max(map(len, edges))
    lines = [
        f"{part:<{width}} -> {', '.join(sorted(used - {part})) or '-'}"
        for part, used in sorted(edges.items())
    ]
    return "\n".join(["```text", *lines, "```", ""])


def _part(module: str) -> str:
    """What a module counts as: its package; inside core and mixkd the sub-package, where it has one."""
    for package in (
        "core.jobs",
        "core.datasets",
        "core.models",
        "core.accounts",
        "core.workers",
        "mixkd.contract",
    ):
        if module == package or module.startswith(f"{package}."):
            return package
    return module.partition(".")[0]


def _default(value: object) -> str:
    if value is None or value in ((), [], ""):
        return ""
    return f"`{_number(value)}`"


def _number(value: object) -> str:
    return (
        f"{value:g}" if isinstance(value, float) and not value.is_integer() else str(value).removesuffix(".0")
    )


def _table(head: tuple[str, ...], rows: list[Row]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in (head, *escaped)]
    return "\n".join([lines[0], "|" + "-|" * len(head), *lines[1:], ""])


def main() -> None:
    """Write every page; with `--check`, only say which differ."""
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
