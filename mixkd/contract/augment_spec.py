"""What makes more training rows out of those there are: one class an augmenter, told apart by `kind`.

A new augmenter is a class here and an entry in the table of `mixkd/augment/` (docs/how-to/augment.md).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mixkd.contract.strict import Fraction, Positive, Strict


class BackTranslation(Strict):
    """Every training text translated into another language and back, under its own label (the paper's +BT).

    The models are of the MarianMT, M2M100 or NLLB kind. One that knows more than two languages has to be told
    both (MarianMT: the one that it translates into), in its own codes.
    """

    kind: Literal["back_translation"] = "back_translation"
    forward: Path = Field(description="the folder of the model that translates into the other language")
    backward: Path = Field(description="the folder of the one that translates back")
    source_language: str | None = Field(None, description="of the texts: eng_Latn (NLLB), en (M2M100), eng")
    pivot_language: str | None = Field(None, description="the other one: deu_Latn, de, deu")
    beams: int = Field(4, ge=1, le=32)
    sample: bool = Field(False, description="draw the words, for more variety, instead of searching the best")
    temperature: Positive = Field(1.0, description="of `sample`; below 1: closer to the likeliest words")
    batch_size: int = Field(32, ge=1, le=1024)
    max_length: int = Field(
        128, ge=4, le=1024, description="tokens of a text and of its translation; what lies beyond is cut off"
    )


class Unlabelled(Strict):
    """Texts without labels; the teacher, as it teaches, says what they are (soft labels)."""

    kind: Literal["unlabelled"] = "unlabelled"
    file: Path = Field(description="of the data's format, with its text columns")
    least_confidence: Fraction = Field(
        0.0,
        description="leave a text out if the teacher's highest probability is lower; single-label tasks only",
    )


AugmentSpec = Annotated[BackTranslation | Unlabelled, Field(discriminator="kind")]
