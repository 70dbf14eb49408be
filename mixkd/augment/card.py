"""What the report says about an augmenter."""

from pydantic import Field

from mixkd.contract.strict import Strict


class AugmentCard(Strict):
    """What one augmenter did to the training rows."""

    kind: str
    made: int = Field(description="rows that it added")
    dropped: dict[str, int] = Field(description="rows that it could have added and did not, by the reason")
    notes: tuple[str, ...] = Field(description="what else a reader should know")
    settings: dict[str, str | int | float | bool | None] = Field(
        description="its own; of a folder or a file the name only"
    )
    made_from: dict[str, str] = Field(description="SHA-256 of the models and files that it used")
    key: str = Field(
        description="SHA-256 of all that decides its rows: version, settings, what they are made from, "
        "the real rows with their labels, and the seed"
    )
