"""`python -m mixkd COMMAND`: a whole distillation, and what comes before and after, with no service at all.

Exit status: 0 where the command did its work; 1 after a refusal or a failure, which is told; 2 where the
command line itself is wrong; 143 after SIGTERM.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from mixkd.cli import show
from mixkd.cli.parser import parser
from mixkd.contract.problems import RefusedError
from mixkd.failures import explain


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what one command line says; its exit status."""
    given = parser().parse_args(arguments)
    # A command is imported when it is called: most of them need torch, which takes seconds to load.
    command = importlib.import_module(f"mixkd.cli.{given.command}")
    try:
        status: int = command.main(given)
        sys.stdout.flush()
    except RefusedError as refused:
        show.refusals(refused)
        return 1
    except BrokenPipeError:  # who read the answer has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's exit flushes once more
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        failed = explain(error)
        if failed.cause == "internal":
            traceback.print_exc()
        show.failure(failed)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
