"""How a supervisor asks a training to finish early: by a signal that names its phase.

What a supervisor knows of a run is a moment old. SIGUSR1, which names none, would cut the student short where
it was meant for a teacher whose training has just ended by itself.
"""

import signal
import sys
from collections.abc import Mapping

from mixkd.contract.messages import Phase

_TRAININGS: tuple[Phase, ...] = ("teach", "augment", "distil", "baselines")
FINISH: Mapping[Phase, int] = (
    {phase: signal.SIGRTMIN + number for number, phase in enumerate(_TRAININGS)}
    if sys.platform == "linux"  # elsewhere there are no such signals, and no supervisors
    else {}
)
