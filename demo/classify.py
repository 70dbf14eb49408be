"""Loads a student with plain `transformers` and classifies what stands on the command line.

Run alone, in isolated mode: `python -I demo/classify.py FOLDER TEXT…`. It prints a JSON line per text, and
fails if any of our code was loaded along the way.
"""

import json
import sys

from transformers import pipeline


def main(folder: str, *texts: str) -> None:
    """Classify, print, and make sure that nobody of ours helped."""
    classify = pipeline("text-classification", model=folder, device="cpu")
    for text, found in zip(texts, classify(list(texts)), strict=True):
        print(json.dumps({"text": text, "label": found["label"], "score": found["score"]}))
    if ours := {"mixkd", "mixkd_client", "core", "worker", "api"} & sys.modules.keys():
        sys.exit(f"not plain transformers: {ours} were imported")


if __name__ == "__main__":
    main(*sys.argv[1:])
