"""Makes more training rows out of those there are: the seam, and the table of what is behind it.

Augmenting comes after teaching and before distilling. Every augmenter sees the real training rows, never
another's, so one more of them changes nothing of what the others make.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixkd.augment import back_translation, unlabelled
from mixkd.augment.cache import digest
from mixkd.augment.card import AugmentCard
from mixkd.augment.seam import Augmenter, Context, Teacher, within
from mixkd.contract.augment_spec import AugmentSpec
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.rows import Row, Soft

__all__ = ["AugmentCard", "Context", "Teacher", "augment", "check_augmenter", "most_rows"]

_AUGMENTERS: Mapping[str, Augmenter[Any]] = {
    "back_translation": back_translation.AUGMENTER,
    "unlabelled": unlabelled.AUGMENTER,
}


def check_augmenter(spec: AugmentSpec, data: DataSpec, field: str) -> None:
    """Refuse what cannot work, before anything runs. No weights are loaded.

    Args:
        field: what a refusal calls the augmenter: `augment.0`.

    Raises:
        RefusedError: the names of its fields begin with `field`.
    """
    with within(f"{field}."):
        _AUGMENTERS[spec.kind].check(spec, data)


def most_rows(rows: Sequence[Row], specs: Sequence[AugmentSpec], data: DataSpec) -> int:
    """How many rows the augmenters can make of the real ones; they may drop some of them.

    Raises:
        RefusedError: a file cannot be used.
    """
    total = 0
    for number, spec in enumerate(specs):
        with within(f"augment.{number}."):
            total += _AUGMENTERS[spec.kind].most(rows, spec, data)
    return total


def augment(
    rows: Sequence[Row], specs: Sequence[AugmentSpec], *, context: Context
) -> tuple[list[Row], list[AugmentCard]]:
    """The real rows, then those of each augmenter in order; and a card each.

    On a CPU the same rows, specs, files and seed give the same rows to the byte, in the cache or not.

    Raises:
        RefusedError: a model or a file cannot be used.
        NotFiniteError: the teacher answered with NaN or infinity.
    """
    everything, cards = list(rows), []
    for number, spec in enumerate(specs):
        augmenter = _AUGMENTERS[spec.kind]
        with within(f"augment.{number}."):
            made_from = augmenter.made_from(spec, context)
            made = augmenter.make(rows, spec, made_from, context)
        everything += made.rows
        cards.append(
            AugmentCard(
                kind=spec.kind,
                made=len(made.rows),
                dropped=dict(made.dropped),
                notes=made.notes,
                settings={name: _shown(value) for name, value in spec if name != "kind"},
                made_from=made_from,
                key=digest(
                    {
                        "kind": spec.kind,
                        "version": augmenter.version,
                        "settings": {name: value for name, value in spec if not isinstance(value, Path)},
                        "made_from": made_from,
                        "rows": [_json(row) for row in rows],
                        "seed": context.seed,
                    }
                ),
            )
        )
    return everything, cards


def _shown(value: Any) -> Any:
    """No path of this machine belongs into a report."""
    return value.name if isinstance(value, Path) else value


def _json(row: Row) -> list[object]:
    return [row.text, row.text_pair, {"soft": row.label.values} if isinstance(row.label, Soft) else row.label]
