"""What every command does before it loads transformers."""

import os


def quiet_libraries() -> None:
    """Let transformers fetch nothing (a command has its files or fails) and draw no bars of its own."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
