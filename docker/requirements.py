"""Prints what pyproject.toml asks for, with the extras that are named: `python requirements.py train onnx`.

The Dockerfile installs these before our own code, so that a change to the code installs nothing anew.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in sys.argv[1:])]
sys.stdout.writelines(f"{requirement}\n" for group in wanted for requirement in group)
