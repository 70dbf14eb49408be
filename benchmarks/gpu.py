"""A run of BERT-base's size where a GPU is at hand: how fast, how much memory, and the same bits again?

`python -m benchmarks.gpu --out DIR`. The weights are random, which is good enough for timing. It distils 12
layers into 6 in bf16 with `deterministic`, three times: undisturbed, once more, and killed in the middle and
resumed.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from mixkd.contract.messages import Message, Progress
from mixkd.contract.spec import RunSpec
from mixkd.prepare import find_device
from mixkd.report.provenance import device_name, folder_digest, versions
from mixkd.report.schema import Report
from mixkd.reporter import Reporter
from mixkd.run import run

WORDS = 30_000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class _Killed(BaseException):
    """Ends a run where it stands, as SIGKILL would."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the three, print what came out as JSON; 1 if bits differ."""
    given = _parser().parse_args(arguments)
    device = find_device(given.device)
    given.out.mkdir(parents=True)
    spec = _spec(given, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    reports = {name: _run(spec, given.out / name, given.device) for name in ("once", "again")}
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    _interrupt(spec, given.out / "resumed", given.device, at=reports["once"].distil.steps // 2)
    reports["resumed"] = _run(spec, given.out / "resumed", given.device)
    students = {name: _student(given.out / name) for name in reports}
    distil = reports["once"].distil
    result: dict[str, Any] = {
        "device": device_name(device),
        "versions": versions(),
        "precision": spec.recipe.runtime.precision,
        "layers": [given.layers, given.layers // 2],
        "hidden_size": given.hidden,
        "rows": given.rows,
        "steps": distil.steps,
        "rows_per_second": given.rows * distil.epochs / distil.seconds,
        "peak_bytes": peak,
        "speed": {name: card.speed.model_dump() for name, card in _cards(reports["once"]).items()},
        "same_bits_again": students["again"] == students["once"],
        "same_bits_resumed": students["resumed"] == students["once"],
    }
    print(json.dumps(result, indent=2))
    return 0 if result["same_bits_again"] and result["same_bits_resumed"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 …; default: the GPU if there is one")
    parser.add_argument("--layers", type=int, default=12, help="of the teacher; the student has half")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--length", type=int, default=128, help="tokens a row")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=32)
    return parser


def _spec(given: argparse.Namespace, device: torch.device) -> RunSpec:
    return RunSpec.model_validate(
        {
            "teacher": _teacher(given),
            "data": {"files": {name: _texts(given, name) for name in ("train", "validation")}},
            "recipe": {
                "student": {"layers": given.layers // 2},
                "distil": {"epochs": 1, "batch_size": given.batch_size},
                "max_length": given.length,
                "runtime": {
                    "precision": "bf16",
                    "deterministic": device.type == "cuda",
                    "checkpoint_seconds": 5,
                },
            },
        }
    )


def _teacher(given: argparse.Namespace) -> Path:
    folder: Path = given.out / "teacher"
    vocabulary = {word: n for n, word in enumerate([*SPECIAL, *(f"w{n}" for n in range(WORDS))])}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=max(1, given.hidden // 64),
        intermediate_size=4 * given.hidden,
        id2label={0: "a", 1: "b"},
        label2id={"a": 0, "b": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


def _texts(given: argparse.Namespace, name: str) -> Path:
    """Texts of a quarter to all of the length; a real set's lengths differ as much."""
    rng = random.Random(name)
    path: Path = given.out / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in range(given.rows if name == "train" else max(8, given.rows // 16)):
            length = rng.randint(given.length // 4, given.length - 2)
            text = " ".join(f"w{rng.randrange(WORDS)}" for _ in range(length))
            file.write(json.dumps({"text": text, "label": "ab"[row % 2]}) + "\n")
    return path


def _run(spec: RunSpec, folder: Path, device: str | None) -> Report:
    folder.mkdir(exist_ok=True)
    return run(spec, folder, Reporter(lambda _: None), device)


def _interrupt(spec: RunSpec, folder: Path, device: str | None, at: int) -> None:
    def send(message: Message) -> None:
        if isinstance(message, Progress) and message.phase == "distil" and message.step >= at:
            raise _Killed

    folder.mkdir()
    try:
        run(spec, folder, Reporter(send), device)
    except _Killed:
        return
    raise SystemExit("the run ended before it could be interrupted: give it more rows")


def _student(folder: Path) -> str:
    """One SHA-256 of the student's weights and tokenizer; its card names seconds, which differ."""
    for path in (folder / "student" / "README.md", *(folder / "student" / "curves").glob("*")):
        path.unlink()
    return folder_digest(folder / "student")


def _cards(report: Report) -> dict[str, Any]:
    return {"teacher": report.teacher, "student": report.student}


if __name__ == "__main__":
    sys.exit(main())
