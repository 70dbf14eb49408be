"""What a teacher's folder can make the library do: nothing beyond the folder."""

import json
from pathlib import Path

import pytest

from mixkd.contract.folder import inspect_folder
from mixkd.contract.problems import RefusedError
from mixkd.teacher import load_tokenizer
from tests.support.tiny import VOCABULARY, write_bert

KEYS = ["vocab", "vocab_file", "merges", "tokenizer_file", "special_tokens_map_file", "added_tokens_file"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json", "config.json"])
def test_no_tokeniser_reads_a_file_outside_its_folder(tmp_path: Path, file: str, key: str) -> None:
    """A student carries its tokeniser away, and with it whatever that has read."""
    canary = tmp_path / "canary.txt"
    canary.write_text("\n".join([*VOCABULARY, "canary"]))
    folder = write_bert(tmp_path / "model")
    content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(content | {key: str(canary)}))
    try:
        inspect_folder(folder)
    except RefusedError:
        return
    assert "canary" not in load_tokenizer(folder).get_vocab()
