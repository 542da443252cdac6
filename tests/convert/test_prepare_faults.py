"""Tests of prepare_weights.py with faulty checkpoints or disks: errors name file and tensor."""

import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import prepare_weights
from mimo_v2_flash.checkpoint.source import FolderSource
from tests.support.damage import (
    INDEX,
    both,
    change_entry,
    change_header,
    change_index,
    cut,
    drop,
    overwrite,
    place_elsewhere,
)
from tests.support.faulty_disk import FaultyDisk
from tests.support.local_hub import REPOSITORY, LocalHub, never_waiting, visited

SHARD = "model_1_linear_fc1.safetensors"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
SCALE = f"{EXPERT}_scale_inv"
KEYS = "model.layers.2.self_attn.k_proj.weight"  # whose scales cross into V


def scale_of(value: float):
    return overwrite(SHARD, np.float32(value).tobytes(), SCALE)


BAD_SCALE = rf"{SHARD}: {SCALE} holds NaN, infinity, zero or a negative number"
FAULTS = {
    "truncated shard": (cut(SHARD, -9), rf"{SHARD}: model\S+: bytes \d+ to \d+ of \d+: truncated"),
    "truncated header": (cut(SHARD, 100), rf"{SHARD}: header of \d+ bytes in a file of 100"),
    "truncated length": (cut(SHARD, 5), rf"{SHARD}: header of \d+ bytes in a file of 5"),
    "wrong header length": (
        overwrite(SHARD, (1 << 40).to_bytes(8, "little")),
        rf"{SHARD}: header of {1 << 40} bytes",
    ),
    "no safetensors": (
        overwrite(SHARD, b"\x02" + b"\0" * 7 + b"<>"),
        f"{SHARD}: header: not JSON",
    ),
    "header a list": (
        overwrite(SHARD, b"\x02" + b"\0" * 7 + b"[]"),
        f"{SHARD}: header: a JSON object",
    ),
    "missing shard": (lambda folder: (folder / SHARD).unlink(), f"{SHARD}: (missing|404)"),
    "missing tensor": (
        drop(SHARD, EXPERT),
        rf"{SHARD}: {EXPERT} is missing, though the index names it here",
    ),
    "bytes of no tensor": (
        change_header(SHARD, lambda header: header.pop(EXPERT)),
        rf"{SHARD}: \S+: ends at byte \d+, the next begins at \d+",
    ),
    "not in the index": (
        change_index(lambda file_of: file_of.pop(EXPERT)),
        rf"(damaged|{REPOSITORY}): {EXPERT}: 1 tensor missing, which the config asks for",
    ),
    "wrong shape": (
        change_entry(SHARD, EXPERT, shape=[136, 72]),
        rf"{SHARD}: {EXPERT} is \(136, 72\), the config asks for \(72, 136\)",
    ),
    "bytes of another shape": (
        change_entry(SHARD, EXPERT, data_offsets=[0, 8]),
        rf"{SHARD}: {EXPERT}: 8 bytes cannot be F8_E4M3 \(72, 136\)",
    ),
    "wrong dtype": (
        change_entry(SHARD, EXPERT, dtype="I8"),
        rf"{SHARD}: {EXPERT}: its weight is int8, expected uint8, as fp8 is stored",
    ),
    "no scales": (
        both(drop(SHARD, SCALE), change_index(lambda file_of: file_of.pop(SCALE))),
        rf"{SHARD}: {EXPERT} is \S+ and has no scales",
    ),
    "scale NaN": (scale_of(np.nan), BAD_SCALE),
    "scale zero": (scale_of(0), BAD_SCALE),
    "scale negative": (scale_of(-1), BAD_SCALE),
    "scale infinite": (scale_of(np.inf), BAD_SCALE),
    "value NaN": (overwrite(SHARD, b"\x7f", EXPERT), rf"{SHARD}: {EXPERT}: holds NaN"),
    "value NaN in K": (
        overwrite("model_2.safetensors", b"\xff", KEYS),
        rf"model_2\.safetensors: {KEYS}: holds NaN",
    ),
    "path traversal": (
        place_elsewhere(EXPERT, f"../{SHARD}"),
        rf"{INDEX}: {EXPERT} is mapped to '\.\./{SHARD}'",
    ),
    "pickle in the index": (
        place_elsewhere(EXPERT, "pytorch_model.bin"),
        rf"{INDEX}: {EXPERT} is mapped to 'pytorch_model\.bin'",
    ),
    "index of no JSON": (overwrite(INDEX, b"<html>"), rf"{INDEX}: no weight_map"),
}


@pytest.fixture
def refused(capsys, tmp_path):
    """Return a function that fails to prepare weights, and returns its one line of stderr."""

    def refuse(*arguments: object, output: Path = tmp_path / "output") -> str:
        assert prepare_weights.main(["--output", str(output), *map(str, arguments)]) == 2
        line = capsys.readouterr().err
        assert line.startswith("prepare_weights.py: ")
        assert line.count("\n") == 1
        return line

    return refuse


def assert_unfinished(output: Path) -> None:
    """Assert that no file has its final name."""
    if output.exists():
        assert {path.suffix for path in output.iterdir()} <= {".partial", ".journal"}


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_damage_is_named_on_a_disk_and_on_the_hub(
    hub_folder, tmp_path, monkeypatch, refused, damage, message
):
    damage(damaged := Path(shutil.copytree(hub_folder, tmp_path / "damaged")))
    lines = [refused("--checkpoint", damaged, output=tmp_path / "from_disk")]
    with visited(LocalHub(damaged), monkeypatch, tmp_path / "home"):
        never_waiting(monkeypatch)
        lines.append(refused("--model", REPOSITORY, output=tmp_path / "from_hub"))
    for line, output in zip(lines, ("from_disk", "from_hub"), strict=True):
        assert re.search(message, line), line
        assert_unfinished(tmp_path / output)


# Faults of the disk


def forbidden(*names: str):
    """Return a `Path.open` that refuses files of these names, also for the superuser."""
    real = Path.open

    def opens(file, *arguments, **options):
        if str(file).endswith(names):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *arguments, **options)

    return opens


def test_a_disk_that_fills_up_is_named_with_file_and_tensor(hub_folder, tmp_path, refused):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = r"output/mimo_weights\.safetensors\.partial: [a-z]\S+: .*No space left on device"
    with FaultyDisk(9, full, ends=".safetensors.partial"):
        assert re.search(message, refused("--checkpoint", hub_folder))
    assert_unfinished(tmp_path / "output")
    arguments = ["--checkpoint", str(hub_folder), "--output", str(tmp_path / "output"), "--resume"]
    assert prepare_weights.main(arguments) == 0


def test_a_disk_without_room_is_refused_before_anything_is_read(
    hub_folder, tmp_path, monkeypatch, refused
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    monkeypatch.setattr(FolderSource, "read", None)
    message = r"output: [\d,]+ more bytes are needed, 1,000 are free"
    assert re.search(message, refused("--checkpoint", hub_folder))
    assert list((tmp_path / "output").iterdir()) == []


@pytest.mark.parametrize("name", [".safetensors.partial", ".journal", "config.json.partial"])
def test_what_may_not_be_written_is_named(hub_folder, tmp_path, monkeypatch, refused, name):
    monkeypatch.setattr(Path, "open", forbidden(name))
    assert re.search(rf"\S+{name}: permission denied", refused("--checkpoint", hub_folder))
    monkeypatch.undo()
    assert_unfinished(tmp_path / "output")


@pytest.mark.parametrize("name", [SHARD, INDEX])
def test_what_may_not_be_read_is_named(hub_folder, monkeypatch, refused, name):
    monkeypatch.setattr(Path, "open", forbidden(name))
    assert re.search(rf"\S+{name}: permission denied", refused("--checkpoint", hub_folder))


def test_an_output_that_is_a_file_is_named(hub_folder, tmp_path, refused):
    (tmp_path / "output").write_text("a file")
    assert "output: file exists" in refused("--checkpoint", hub_folder)


def test_a_pickle_is_not_loaded(tmp_path, refused):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pytorch_model.bin can run code" in refused("--checkpoint", tmp_path)
