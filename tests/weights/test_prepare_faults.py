"""A fault names file and tensor, on a disk as on the hub, and leaves nothing under a final name."""

import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import prepare_weights
from tests.support.damage import (
    INDEX,
    both,
    change_entry,
    change_index,
    cut,
    drop,
    overwrite,
    place_elsewhere,
)
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.local_hub import REPOSITORY, LocalHub, never_waiting, visited
from tests.support.tiny import tiny

SHARD = "model_1_linear_fc1.safetensors"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
SCALE = f"{EXPERT}_scale_inv"
KEYS = "model.layers.2.self_attn.k_proj.weight"  # whose scales cross into V


def scale_of(value: float):
    return overwrite(SHARD, np.float32(value).tobytes(), SCALE)


BAD_SCALE = rf"{SHARD}: {EXPERT}: a scale is NaN, infinite, zero or negative"
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
        f"{SHARD}: header is not JSON",
    ),
    "header a list": (overwrite(SHARD, b"\x02" + b"\0" * 7 + b"[]"), f"{SHARD}: header is not a"),
    "missing shard": (lambda folder: (folder / SHARD).unlink(), f"{SHARD}: (missing|404)"),
    "missing tensor": (
        drop(SHARD, EXPERT),
        rf"{SHARD}: {EXPERT} is missing, though the index names it here",
    ),
    "not in the index": (
        change_index(lambda file_of: file_of.pop(EXPERT)),
        rf"(damaged|{REPOSITORY}): {EXPERT} is missing",
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
        rf"{SHARD}: {EXPERT} is I8, expected one of F32, BF16",
    ),
    "no scales": (
        both(drop(SHARD, SCALE), change_index(lambda file_of: file_of.pop(SCALE))),
        rf"{SHARD}: {EXPERT} is F8_E4M3 and has no scales",
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
        rf"{INDEX}: {EXPERT} is said to be in '\.\./{SHARD}'",
    ),
    "pickle in the index": (
        place_elsewhere(EXPERT, "pytorch_model.bin"),
        rf"{INDEX}: {EXPERT} is said to be in 'pytorch_model\.bin'",
    ),
    "index of no JSON": (overwrite(INDEX, b"<html>"), rf"{INDEX}: no weight_map"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture
def refused(capsys, tmp_path):
    """Return what prepares weights in vain, and returns the line that was said."""
    output = tmp_path / "output"

    def refuse(*arguments: object) -> str:
        assert prepare_weights.main(["--output", str(output), *map(str, arguments)]) == 2
        line = capsys.readouterr().err
        assert line.startswith("prepare_weights.py: ")
        assert line.count("\n") == 1
        if output.is_dir():
            assert {path.suffix for path in output.iterdir()} <= {".partial", ".journal"}
        return line

    return refuse


@pytest.mark.parametrize(("damage", "said"), FAULTS.values(), ids=FAULTS)
def test_damage_is_named_on_a_disk_and_on_the_hub(
    folder, tmp_path, monkeypatch, refused, damage, said
):
    damage(damaged := Path(shutil.copytree(folder, tmp_path / "damaged")))
    here = refused("--checkpoint", damaged)
    with visited(LocalHub(damaged), monkeypatch, tmp_path / "home"):
        never_waiting(monkeypatch)
        there = refused("--model", REPOSITORY, "--resume")
    for line in (here, there):
        assert re.search(said, line), line
