"""mimo prepare --verify says what it compared, names what differs, and changes nothing."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

import prepare_weights
from mimo_v2_flash.cli.main import main
from tests.support.damage import overwrite
from tests.support.local_hub import COMMIT, REPOSITORY, LocalHub, visited

FILE, INDEX = "mimo_weights.safetensors", "mimo_weights.safetensors.index.json"
EXPERT = "model.layers.1.mlp.experts.1.up_proj.weight"
DAMAGE = overwrite("model_1_linear_fc1.safetensors", b"\x11", EXPERT)


@pytest.fixture(scope="module")
def hub(hub_folder, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(hub_folder, tmp_path_factory.mktemp("hub") / "hub"))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def source(hub, tmp_path) -> Path:
    """Return a copy of the checkpoint, to be changed."""
    return Path(shutil.copytree(hub, tmp_path / "source"))


@pytest.fixture
def output(source, tmp_path, capsys) -> Path:
    """Return a finished folder of `source`."""
    output = tmp_path / "output"
    arguments = ("--checkpoint", source, "--output", output, "--expert-subset", "1-3")
    assert prepare_weights.main(list(map(str, arguments))) == 0
    capsys.readouterr()
    return output


@pytest.fixture
def verified(output, capsys):
    """Return a function that verifies the folder, and returns the status and standard output."""

    def verify(*arguments: object, status: int = 0) -> str:
        before = {path: path.read_bytes() for path in output.iterdir()}
        words = ("--output", output, "--verify", *arguments)
        assert prepare_weights.main(list(map(str, words))) == status
        assert {path: path.read_bytes() for path in output.iterdir()} == before
        return capsys.readouterr().out

    return verify


def test_it_says_that_nothing_differs_and_what_it_compared(source, verified):
    lines = verified().splitlines()
    assert re.fullmatch(r"checksums of 3 files, [\d.]+ MB: 0 differ", lines[0])
    files = len(list(source.glob("*.safetensors*"))) + 2
    assert lines[1] == (
        f"source {source}: unchanged, by size, time, header and samples of {files} files"
    )
    assert len(lines) == 2


def test_mimo_prepare_is_the_same(output, verified, capsys):
    expected = verified()
    assert main(["prepare", "--output", str(output), "--verify"]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("file", [FILE, "config.json", "tokenizer.json"])
def test_a_damaged_file_is_named_and_the_source_not_compared(source, output, verified, file):
    overwrite(file, b"\x07")(output)
    lines = verified(status=1).splitlines()
    assert lines[0].endswith(": 1 differ")
    assert lines[1:] == [
        f"source {source}: not compared",
        f"{output}/{file}: its bytes are not those of its checksum",
    ]


def test_without_its_source_the_checksums_are_compared(source, output, verified):
    source.rename(moved := source.with_name("moved"))
    assert verified().splitlines()[1:] == [
        f"source {source}: not at hand: {source}: no such file or folder"
    ]
    source.mkdir()
    assert f"not at hand: {source}: holds no .safetensors file" in verified()
    assert f"source {source}: unchanged, by size" in verified("--checkpoint", moved)


def test_a_source_that_was_touched_is_compared_by_tensor(source, verified):
    os.utime(source / "model_2.safetensors")
    (line,) = verified().splitlines()[1:]
    assert re.search(r"model_2\S+ has another modification time; \d+ tensors were compared", line)


def test_a_tensor_that_the_source_changed_is_named(source, output, verified):
    DAMAGE(source)
    *_, state, line = verified(status=1).splitlines()
    assert "model_1_linear_fc1.safetensors has other content; " in state
    assert line == f"{output}/{FILE}: {EXPERT} differs from the source"


@pytest.mark.parametrize("left_out", [(), ("--num-layers", "2"), ("--no-mtp",)])
def test_what_was_left_out_is_no_difference(source, output, verified, left_out):
    shutil.rmtree(output)
    arguments = ("--checkpoint", str(source), "--output", str(output), *left_out)
    assert prepare_weights.main(list(arguments)) == 0
    os.utime(source / "model_2.safetensors")
    assert " tensors were compared" in verified()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rope_theta": 7}, "{output}: rope_theta is 5000000.0, the source's is 7"),
        ({"num_hidden_layers": 2}, "the source is of another model: "),
        ({"vocab_size": 10}, "the source is of another model: "),
    ],
)
def test_a_source_of_another_model_is_named(source, output, verified, change, line):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | change))
    assert line.format(output=output) in verified(status=1)


def test_a_source_whose_files_are_damaged_is_named(source, verified):
    for file in source.glob("*_linear_fc1.safetensors"):
        file.write_bytes(b"")
    assert "the source is of another model: " in verified(status=1)


def test_a_folder_of_the_last_release_is_compared_with_what_it_records(output, verified):
    index = json.loads((output / INDEX).read_text())
    for name in ("source_files", "sha256"):
        del index["metadata"][name]
    (output / INDEX).write_text(json.dumps(index))
    stdout = verified()
    assert "checksums of 0 files" in stdout
    assert f"{output}/{FILE}: no checksum is recorded, so it was not compared" in stdout
    assert re.search(r"no states of its files are recorded; \d+ tensors were compared", stdout)


def test_its_numbers_are_json(source, output, verified):
    DAMAGE(source)
    numbers = json.loads(verified("--json", status=1))
    assert numbers["differences"] == [f"{output}/{FILE}: {EXPERT} differs from the source"]
    assert numbers["compared_tensors"] > 50
    assert numbers["files"] == 3
    assert numbers["bytes"] > 1_000_000
    assert numbers["files_without_checksum"] == []


def test_a_commit_of_the_hub_is_compared_by_name(hub, output, verified, monkeypatch, tmp_path):
    shutil.rmtree(output)
    named = ("--model", REPOSITORY, "--revision", COMMIT)
    with visited(LocalHub(hub), monkeypatch, tmp_path / "home") as server:
        arguments = (*named, "--output", str(output), "--expert-subset", "1-3")
        assert prepare_weights.main(list(arguments)) == 0
        server.reset()
        assert f"source {REPOSITORY} {COMMIT}: not at hand" in verified()
        assert server.requests == []
        assert f"source {REPOSITORY} {COMMIT}: unchanged, the same commit" in verified(*named)
        assert server.served == []
    assert "tensors were compared with it" in verified("--checkpoint", hub)


def test_without_verify_a_source_is_required(capsys):
    assert prepare_weights.main([]) == 2
    line = "prepare_weights.py: one of --checkpoint and --model is required\n"
    assert capsys.readouterr().err == line


def test_a_folder_that_is_not_prepared_is_one_line(tmp_path, capsys):
    assert prepare_weights.main(["--output", str(tmp_path / "none"), "--verify"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"prepare_weights.py: .*index\.json: no such file; no finished .*\n", error)
