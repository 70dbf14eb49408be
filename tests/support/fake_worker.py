"""`python -m worker` with a fake trainer: `fake_worker.py SCRIPTS [--control]`."""

import sys
from pathlib import Path

from tests.support.fake_trainer import Scripts
from worker.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], trainer=Scripts(Path(sys.argv[1])).command))
