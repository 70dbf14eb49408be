"""What `python -m mixkd estimate` answers."""

from pydantic import Field

from mixkd.contract.data_spec import SetName
from mixkd.contract.strict import Strict


class Memory(Strict):
    """Bytes on the device at the most, while something is trained; all others together are the `peak`."""

    process: int = Field(description="the process with its libraries and the data; 0 on a GPU")
    weights: int = Field(description="of the model that learns and of the one that teaches it")
    gradients: int
    optimiser: int = Field(description="the two moments of AdamW")
    best: int = Field(description="the best weights so far, which wait on the CPU; 0 on a GPU")
    activations: int = Field(description="the rest")
    peak: int = Field(description="measured, over a few steps of the batch that takes most")


class TrainingCost(Strict):
    """What one training takes, if nothing ends it early."""

    rows: int = Field(description="with those that augmenters make at the most, counted like the others")
    steps: int
    tokens: int = Field(description="of the rows, in all steps")
    padded_tokens: int = Field(description="that go through the network: padding and mixed rows too")
    seconds_per_step: float = Field(description="on average")
    slowest_step: float = Field(description="seconds, of the batch that takes most")
    training_seconds: float
    evaluation_seconds: float = Field(description="of all evaluations on the validation rows")
    memory: Memory


class Measured(Strict):
    """What a run takes, as far as a few steps on this device tell."""

    device: str
    precision: str
    rows: dict[SetName, int] = Field(description="of each set; those that augmenters make are not counted")
    parameters: dict[str, int] = Field(description="of `teacher` and `student`")
    trainings: dict[str, TrainingCost] = Field(description="`teach`, `distil`, and the baselines by name")
    final_evaluation_seconds: float = Field(description="of every model on every set but `train`")
    free_on_gpu: int | None = Field(description="bytes, before anything was loaded; null on a CPU")
    micro_batch: int | None = Field(description="rows at once, in these numbers; null: the whole batch")


class Estimate(Measured):
    """What a run takes, and whether it fits. If not, the other numbers are of a smaller micro-batch."""

    seconds: float = Field(
        description="of trainings and evaluations; loading, augmenting and exporting come on top"
    )
    memory_needed: int | None = Field(
        description="bytes, as the recipe is; null: more than could be measured"
    )
    memory_available: int = Field(description="bytes, of the GPU, or of the machine and its control groups")
    fits: bool = Field(description="as the recipe is; if not, set `recipe.runtime.micro_batch` as said here")
