"""What makes more training rows out of those there are: one class an augmenter, told apart by `kind`.

A new augmenter is a class here and a function in `mixkd/augment/`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mixkd.contract.strict import Fraction, Positive, Strict


class BackTranslation(Strict):
    """Every training text translated into another language and back, under its own label (the paper's +BT).

    The models are of the MarianMT or NLLB kind: a tokenizer and an encoder-decoder that translates.
    """

    kind: Literal["back_translation"] = "back_translation"
    forward: Path = Field(description="the folder of the model that translates into the other language")
    backward: Path = Field(description="the folder of the one that translates back")
    source_language: str | None = Field(None, description="NLLB's code of the texts' language: eng_Latn")
    pivot_language: str | None = Field(None, description="NLLB's code of the other language: deu_Latn")
    beams: int = Field(4, ge=1, le=32)
    sample: bool = Field(False, description="draw the words, for more variety, instead of searching the best")
    temperature: Positive = 1.0
    batch_size: int = Field(32, ge=1, le=1024)
    max_length: int = Field(128, ge=4, le=1024, description="tokens of a translation")


class Unlabelled(Strict):
    """Texts without labels; the teacher, as it teaches, says what they are (soft labels)."""

    kind: Literal["unlabelled"] = "unlabelled"
    file: Path = Field(description="of the data's format, with its text columns")
    least_confidence: Fraction = Field(
        0.0, description="leave a text out if the teacher's highest probability is lower; classification only"
    )


AugmentSpec = Annotated[BackTranslation | Unlabelled, Field(discriminator="kind")]
