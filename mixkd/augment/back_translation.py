"""Every training text translated into another language and back (Sennrich et al., 2016; the paper's +BT).

A row keeps its label, for a translation is taken to keep the meaning. Both texts of a pair are translated; a
text that several rows share is translated once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from mixkd.augment.cache import digest, remembered
from mixkd.augment.seam import STOPPED, Augmenter, Context, Made
from mixkd.augment.translator import (
    Translated,
    Way,
    check_way,
    fingerprint,
    load_translator,
    translate,
)
from mixkd.contract.augment_spec import BackTranslation
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import Row
from mixkd.randomness import seed_torch

SAME = "equal to its original"
EMPTY = "empty"

_VERSION = 1
_BATCHES = 4  # a chunk: what the cache keeps together, and how far it is to the next look at `should_stop`


def _ways(spec: BackTranslation) -> tuple[Way, Way]:
    source, pivot = ("source_language", spec.source_language), ("pivot_language", spec.pivot_language)
    return Way("forward", spec.forward, source, pivot), Way("backward", spec.backward, pivot, source)


def _check(spec: BackTranslation, _data: DataSpec) -> None:
    forward, backward = _ways(spec)
    told = {*check_way(forward, spec.max_length).fields, *check_way(backward, spec.max_length).fields}
    for field, code in (forward.source, forward.target):
        if code is not None and field not in told:
            raise RefusedError(
                Problem(
                    field, "neither model has to be told it: they know their languages", code, "leave it out"
                )
            )


def _made_from(spec: BackTranslation, _context: Context) -> dict[str, str]:
    return {"forward": fingerprint(spec.forward), "backward": fingerprint(spec.backward)}


def _make(rows: Sequence[Row], spec: BackTranslation, made_from: Mapping[str, str], context: Context) -> Made:
    back = _there_and_back(_distinct(text for row in rows for text in _texts(row)), spec, made_from, context)
    made: list[Row] = []
    dropped: Counter[str] = Counter()
    cut = 0
    for row in rows:
        new = [back[text] for text in _texts(row) if text in back]
        if reason := _reason_to_drop(row, new):
            dropped[reason] += 1
            continue
        text, pair = new[0].text, new[1].text if row.text_pair is not None else None
        made.append(replace(row, text=text, text_pair=pair))
        cut += any(translation.cut for translation in new)
    note = f"{cut} of these rows were longer than {spec.max_length} tokens: what lies beyond is not in them"
    return Made(made, dropped, (note,) if cut else ())


def _texts(row: Row) -> list[str]:
    return [row.text] if row.text_pair is None else [row.text, row.text_pair]


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _reason_to_drop(row: Row, new: Sequence[Translated]) -> str | None:
    originals = _texts(row)
    if len(new) < len(originals):
        return STOPPED
    if not all(translation.text for translation in new):
        return EMPTY
    if all(" ".join(a.split()) == b.text for a, b in zip(originals, new, strict=True)):
        return SAME
    return None


def _there_and_back(
    texts: Sequence[str], spec: BackTranslation, made_from: Mapping[str, str], context: Context
) -> dict[str, Translated]:
    """By text; a text that was not translated before the run was asked to finish is left out."""
    forward, backward = _ways(spec)
    there = _translated(texts, forward, spec, made_from["forward"], context, done=0, of=2 * len(texts))
    pivots = _distinct(pivot.text for pivot in there.values() if pivot.text)
    of = len(texts) + len(pivots)
    back = _translated(pivots, backward, spec, made_from["backward"], context, done=len(texts), of=of)
    both = {}
    for text, pivot in there.items():
        if not pivot.text:
            both[text] = pivot
        elif pivot.text in back:
            again = back[pivot.text]
            both[text] = again._replace(cut=pivot.cut or again.cut)
    return both


def _translated(
    texts: Sequence[str],
    way: Way,
    spec: BackTranslation,
    model: str,
    context: Context,
    *,
    done: int,
    of: int,
) -> dict[str, Translated]:
    """One of the two translations, chunk by chunk. The model is loaded if a chunk is not in the cache."""
    made_from = {
        "version": _VERSION,
        "model": model,
        "source": way.source[1],
        "target": way.target[1],
        "batch_size": spec.batch_size,  # rows of a batch share their padding, which can tip a last digit
        "max_length": spec.max_length,
        # A search for the best translation draws nothing: every seed finds the same one.
        **({"temperature": spec.temperature, "seed": context.seed} if spec.sample else {"beams": spec.beams}),
    }
    translator = cache(partial(load_translator, way, context.device))
    size = _BATCHES * spec.batch_size
    found: dict[str, Translated] = {}
    for start in range(0, len(texts), size):
        if context.should_stop():
            break
        chunk = texts[start : start + size]
        key = {**made_from, "texts": digest(chunk)}

        def make(chunk: Sequence[str] = chunk, stream: str = digest(key)) -> list[Translated]:
            seed_torch(context.seed, "augment", stream)
            return translate(translator(), chunk, spec)

        values = remembered(context.cache, key, make)
        found.update((text, Translated(*value)) for text, value in zip(chunk, values, strict=True))
        context.progress(done + start + len(chunk), of)
    return found


AUGMENTER = Augmenter(_VERSION, _check, _made_from, _make)
