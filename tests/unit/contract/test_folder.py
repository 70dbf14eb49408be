"""Model folders: what is recognised, and what is refused before anything is loaded."""

import json
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mixkd.contract.families import FAMILIES
from mixkd.contract.folder import inspect_folder, read_safetensors_header, wanted
from mixkd.contract.problems import Problem, RefusedError
from tests.support.tiny import VOCABULARY, bert_tensors, safetensors, write_bert


def refusal(folder: Path) -> Problem:
    with pytest.raises(RefusedError) as caught:
        inspect_folder(folder)
    (problem,) = caught.value.problems
    return problem


def change_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


class Booby:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def test_an_encoder_is_described(tmp_path: Path) -> None:
    info = inspect_folder(write_bert(tmp_path, layers=3, hidden=8))
    assert (info.family, info.layers, info.hidden_size, info.vocab_size) == ("bert", 3, 8, len(VOCABULARY))
    assert (info.max_positions, info.labels) == (32, None)
    expected = sum(rows * (columns[0] if columns else 1) for rows, *columns in bert_tensors(3, 8).values())
    assert info.parameters == expected


def test_a_classifier_has_its_labels_in_the_order_of_its_outputs(tmp_path: Path) -> None:
    assert inspect_folder(write_bert(tmp_path, labels=["z", "b", "a"])).labels == ["z", "b", "a"]


def test_id2label_without_a_classification_head_means_nothing(tmp_path: Path) -> None:
    assert inspect_folder(write_bert(tmp_path, id2label={"0": "LABEL_0", "1": "LABEL_1"})).labels is None


def test_roberta_like_positions_start_after_the_padding(tmp_path: Path) -> None:
    write_bert(tmp_path, layers=1, model_type="roberta", pad_token_id=1)
    tensors = {name.replace("bert.", "roberta."): shape for name, shape in bert_tensors(1, 8).items()}
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors))
    assert inspect_folder(tmp_path).max_positions == 30


def test_weights_without_the_base_prefix_are_recognised(tmp_path: Path) -> None:
    write_bert(tmp_path)
    tensors = {name.removeprefix("bert."): shape for name, shape in bert_tensors(2, 8).items()}
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors))
    assert inspect_folder(tmp_path).layers == 2


def test_a_head_of_one_output_gives_a_score(tmp_path: Path) -> None:
    write_bert(tmp_path, labels=["LABEL_0"], problem_type="regression")
    assert inspect_folder(tmp_path).labels == ["LABEL_0"]


def test_a_head_of_several_labels_a_row_has_their_names(tmp_path: Path) -> None:
    write_bert(tmp_path, labels=["joy", "fear"], problem_type="multi_label_classification")
    assert inspect_folder(tmp_path).labels == ["joy", "fear"]


def write_albert(folder: Path, groups: int = 1, **config: object) -> Path:
    """An ALBERT of four layers, with the weights of as many as it has groups."""
    write_bert(folder, layers=4, model_type="albert", **{"embedding_size": 8, **config})
    tensors = {
        name.replace("bert.", "albert.").replace("encoder.layer.", "encoder.albert_layer_groups."): shape
        for name, shape in bert_tensors(groups, 8).items()
    }
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


def test_alberts_layers_are_one(tmp_path: Path) -> None:
    assert inspect_folder(write_albert(tmp_path)).layers == 4


@pytest.mark.parametrize("groups", [0, 2])
def test_an_albert_with_other_weights_than_its_one_layers_is_refused(tmp_path: Path, groups: int) -> None:
    assert refusal(write_albert(tmp_path, groups)).field == "model.safetensors"


@pytest.mark.parametrize("value", [2, 0, None, "1", 2**40])
def test_an_albert_with_groups_of_layers_is_refused(tmp_path: Path, value: object) -> None:
    problem = refusal(write_albert(tmp_path, 2, num_hidden_groups=value))
    assert problem.field == "config.json"
    assert "num_hidden_groups" in problem.problem


@pytest.mark.parametrize(
    ("fields", "accepted"), [({}, True), ({"embedding_size": 8}, True), ({"embedding_size": 4}, False)]
)
def test_debertas_words_are_as_wide_as_its_layers_unless_it_says_otherwise(
    tmp_path: Path, fields: dict[str, object], accepted: bool
) -> None:
    write_bert(tmp_path, model_type="deberta-v2", **fields)
    tensors = {name.replace("bert.", "deberta."): shape for name, shape in bert_tensors(2, 8).items()}
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors))
    if accepted:
        assert inspect_folder(tmp_path).family == "deberta-v2"
    else:
        assert "word embeddings" in refusal(tmp_path).problem


@pytest.mark.parametrize("file", ["spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.json"])
def test_one_file_of_a_tokenizer_is_enough(tmp_path: Path, file: str) -> None:
    write_bert(tmp_path)
    (tmp_path / "vocab.txt").rename(tmp_path / file)
    assert inspect_folder(tmp_path).family == "bert"
    assert wanted(file)


def shard(folder: Path) -> dict[str, str]:
    write_bert(folder)
    tensors = list(bert_tensors(2, 8).items())
    files = {"model-00001-of-00002.safetensors": tensors[:9], "model-00002-of-00002.safetensors": tensors[9:]}
    for name, part in files.items():
        (folder / name).write_bytes(safetensors(dict(part)))
    weight_map = {tensor: name for name, part in files.items() for tensor, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return weight_map


def test_sharded_weights_count_in_full(tmp_path: Path) -> None:
    shard(tmp_path / "shards")
    whole = inspect_folder(write_bert(tmp_path / "whole"))
    assert inspect_folder(tmp_path / "shards") == whole


@pytest.mark.parametrize("target", ["../outside.safetensors", "model-00009-of-00002.safetensors", 7])
def test_an_index_that_names_no_shard_of_the_folder_is_refused(tmp_path: Path, target: object) -> None:
    weight_map = shard(tmp_path / "m") | {"more": target}
    (tmp_path / "outside.safetensors").write_bytes(safetensors({"more": [1]}))
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert refusal(tmp_path / "m").field == "model.safetensors.index.json"


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.ckpt", "tf_model.h5", "flax_model.msgpack"]
)
def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    folder = write_bert(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Booby(tmp_path / "opened")))
    before = (folder / name).stat().st_atime_ns
    problem = refusal(folder)
    assert problem.field == name
    assert problem.remedy is not None
    assert "safetensors" in problem.remedy
    assert not (tmp_path / "opened").exists()
    assert (folder / name).stat().st_atime_ns == before
    pickle.loads((folder / name).read_bytes())
    assert (tmp_path / "opened").exists(), "the trap must be one"


def test_a_pickle_beside_safetensors_does_not_matter(tmp_path: Path) -> None:
    (write_bert(tmp_path) / "pytorch_model.bin").write_bytes(b"never opened")
    assert inspect_folder(tmp_path).family == "bert"
    assert not wanted("pytorch_model.bin")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_auto_map_is_refused(tmp_path: Path, file: str) -> None:
    write_bert(tmp_path)
    content = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(content | {"auto_map": {"AutoModel": "x.y"}}))
    problem = refusal(tmp_path)
    assert (problem.field, problem.value) == (file, "auto_map")


@pytest.mark.parametrize(
    "field", ["quantization_config", "transformers_weights", "attn_implementation", "per_layer_config"]
)
def test_fields_that_load_something_else_are_refused(tmp_path: Path, field: str) -> None:
    write_bert(tmp_path, **{field: "someone/kernel"})
    assert refusal(tmp_path).value == field


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("tokenizer_config.json", "vocab"),
        ("tokenizer_config.json", "merges"),
        ("tokenizer_config.json", "vocab_file"),
        ("tokenizer_config.json", "init_inputs"),
        ("special_tokens_map.json", "vocab_file"),
        ("special_tokens_map.json", "vocab"),
    ],
)
def test_a_tokenizer_that_names_a_file_elsewhere_is_refused(tmp_path: Path, file: str, key: str) -> None:
    write_bert(tmp_path)
    (tmp_path / file).write_text(json.dumps({key: "/etc/hostname"}))
    problem = refusal(tmp_path)
    assert (problem.field, problem.value) == (file, key)
    assert "outside the folder" in problem.problem


def test_what_published_tokenizers_carry_is_accepted(tmp_path: Path) -> None:
    write_bert(tmp_path)
    fields = {
        "tokenizer_class": "BertTokenizerFast",
        "special_tokens_map_file": "/home/somebody/x",
        "vocab": None,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"cls_token": "[CLS]", "additional_special_tokens": ["[X]"]})
    )
    assert inspect_folder(tmp_path).family == "bert"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_an_unknown_tokenizer_class_is_refused(tmp_path: Path, file: str) -> None:
    write_bert(tmp_path)
    content = json.loads((tmp_path / file).read_text()) | {"tokenizer_class": "TransfoXLTokenizer"}
    (tmp_path / file).write_text(json.dumps(content))
    problem = refusal(tmp_path)
    assert (problem.field, problem.value) == (file, "TransfoXLTokenizer")


def test_a_claim_of_many_layers_costs_no_memory(tmp_path: Path) -> None:
    write_bert(tmp_path, num_hidden_layers=2_000_000)
    tracemalloc.start()
    try:
        assert refusal(tmp_path).field == "model.safetensors"
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_tensor_with_an_absurd_layer_number_is_refused(tmp_path: Path) -> None:
    write_bert(tmp_path)
    tensors = {**bert_tensors(1, 8), f"bert.encoder.layer.{'9' * 5000}.x": [1]}
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors))
    assert refusal(tmp_path).field == "model.safetensors"


def test_an_index_of_anything_but_names_is_refused(tmp_path: Path) -> None:
    write_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": []}}')
    assert refusal(tmp_path).field == "model.safetensors.index.json"


def test_more_positions_than_the_weights_have_are_refused(tmp_path: Path) -> None:
    problem = refusal(write_bert(tmp_path, max_position_embeddings=4096))
    assert (problem.field, problem.value) == ("model.safetensors", 4096)


@pytest.mark.parametrize("name", ["a\0", "\ud800"])
def test_labels_that_no_database_can_hold_are_refused(tmp_path: Path, name: str) -> None:
    assert refusal(write_bert(tmp_path, labels=[name, "b"])).field == "config.json"


@pytest.mark.parametrize("name", ["modeling.py", "deep/er/modeling.py", "lib.so"])
def test_code_in_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = write_bert(tmp_path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("raise SystemExit")
    assert refusal(tmp_path).field == name


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "readme", "folder"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_bert(tmp_path / "m")
    outside = tmp_path / "outside"
    if name == "folder":
        outside.mkdir()
    elif (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("secret")
    (folder / name).symlink_to(outside)
    problem = refusal(folder)
    assert problem.field == name
    assert str(tmp_path) not in f"{problem}"


def hub_cache(folder: Path) -> Path:
    """A model as huggingface_hub keeps it: a folder of links to files that are named by their hashes."""
    cached = folder / "models--org--name"
    snapshot = write_bert(cached / "snapshots" / "abc")
    (cached / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(cached / "blobs" / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    return snapshot


def test_a_folder_of_the_hubs_cache_is_a_model(tmp_path: Path) -> None:
    assert inspect_folder(hub_cache(tmp_path)).family == "bert"


@pytest.mark.parametrize("where", ["blobs", "models--org--name/blobs/sub", "models--other/blobs"])
def test_a_link_out_of_the_hubs_folder_of_the_model_is_refused(tmp_path: Path, where: str) -> None:
    snapshot = hub_cache(tmp_path)
    outside = tmp_path / where / "secret"
    outside.parent.mkdir(parents=True)
    outside.write_text("secret")
    (snapshot / "vocab.txt").unlink()
    (snapshot / "vocab.txt").symlink_to(outside)
    assert refusal(snapshot).field == "vocab.txt"
    blob = tmp_path / "models--org--name" / "blobs" / "link"
    blob.symlink_to(outside)
    (snapshot / "vocab.txt").unlink()
    (snapshot / "vocab.txt").symlink_to(blob)
    assert refusal(snapshot).field == "vocab.txt"


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path)]
)
def test_what_is_no_file_is_refused_without_waiting_for_it(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    folder = write_bert(tmp_path)
    (folder / "config.json").unlink()
    make(folder / "config.json")
    assert refusal(folder).field == "config.json"


def test_an_unknown_architecture_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    problem = refusal(write_bert(tmp_path / "gpt", model_type="gpt2"))
    assert (problem.field, problem.value) == ("config.json", "gpt2")
    assert problem.remedy is not None
    assert all(name in problem.remedy for name in FAMILIES)
    assert refusal(write_bert(tmp_path / "typo", model_type="robert")).remedy == "did you mean 'roberta'?"


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "vocab.txt"])
def test_a_missing_part_is_named(tmp_path: Path, missing: str) -> None:
    (write_bert(tmp_path) / missing).unlink()
    assert refusal(tmp_path).field == missing.replace("vocab.txt", "tokenizer.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_broken_config_is_refused(tmp_path: Path, content: bytes) -> None:
    (write_bert(tmp_path) / "config.json").write_bytes(content)
    assert refusal(tmp_path).field == "config.json"


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"vocab_size": 7},
        {"hidden_size": 16},
    ],
)
def test_weights_that_are_not_what_the_config_says_are_refused(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    change_config(write_bert(tmp_path), **fields)
    assert refusal(tmp_path).field == "model.safetensors"


@pytest.mark.parametrize("value", [None, "6", 0, -1, True, 1.5])
def test_sizes_must_be_positive_whole_numbers(tmp_path: Path, value: object) -> None:
    change_config(write_bert(tmp_path), num_hidden_layers=value)
    problem = refusal(tmp_path)
    assert problem.field == "config.json"
    assert "num_hidden_layers" in problem.problem


@pytest.mark.parametrize(
    "names", [{"0": "a"}, {"0": "a", "2": "b"}, {"0": "a", "1": "a"}, ["a", "b"], {"0": "a", "1": 2}]
)
def test_labels_that_do_not_fit_the_head_are_refused(tmp_path: Path, names: object) -> None:
    assert refusal(write_bert(tmp_path, labels=["a", "b"], id2label=names)).field in {
        "config.json",
        "model.safetensors",
    }


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").field == "folder"


# -- safetensors headers ---------------------------------------------------------------------------------


def framed(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        (2**63).to_bytes(8, "little") + b"{}",
        framed(b"{}")[:-1],
        framed(b"[]"),
        framed(b"{" * 1000),
        framed({"a": F32}, b"\0" * 7),
        framed({"a": F32}, b"\0" * 9),
        framed({"a": F32 | {"dtype": "F31"}}, b"\0" * 8),
        framed({"a": F32 | {"shape": [3]}}, b"\0" * 8),
        framed({"a": F32 | {"shape": [-1, -2]}}, b"\0" * 8),
        framed({"a": F32 | {"shape": [True, 2]}}, b"\0" * 8),
        framed({"a": F32 | {"data_offsets": [8, 0]}}, b"\0" * 8),
        framed({"a": F32 | {"data_offsets": [0]}}, b"\0" * 8),
        framed({"a": F32 | {"data_offsets": [4, 12]}}, b"\0" * 12),
        framed({"a": F32, "b": F32}, b"\0" * 8),
        framed({"a": None}, b""),
        pickle.dumps({"a": 1}),
    ],
)
def test_a_broken_header_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        read_safetensors_header(path)
    assert caught.value.problems[0].field == "model.safetensors"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    content=st.binary(max_size=200)
    | st.binary(max_size=200).map(framed)
    | st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["F32", "I8", "x"]),
                "shape": st.lists(st.integers(-1, 3), max_size=3) | st.none(),
                "data_offsets": st.lists(st.integers(-1, 30), max_size=3),
            },
        ),
        max_size=3,
    ).map(lambda header: framed(header, b"\0" * 12))
)
def test_any_bytes_are_a_header_or_a_refusal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    try:
        tensors = read_safetensors_header(path)
    except RefusedError:
        return
    assert all(size >= 0 for tensor in tensors.values() for size in tensor.shape)


def test_the_safetensors_library_reads_the_same_names_and_shapes(tmp_path: Path) -> None:
    arrays = load_file(write_bert(tmp_path) / "model.safetensors")
    ours = read_safetensors_header(tmp_path / "model.safetensors")
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: a.shape for n, a in arrays.items()}


def test_the_inspected_folder_is_left_as_it_was(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "m")
    shutil.copytree(folder, tmp_path / "copy")
    inspect_folder(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "copy").iterdir()
    }
