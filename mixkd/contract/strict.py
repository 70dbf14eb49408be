"""The base of every value object of the contract, and the numbers that many of them have."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """A value object: unknown fields are refused (a typo must not be ignored) and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
