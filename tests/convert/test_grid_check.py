"""Tests of check_grids: rows that were moved under their scales are noticed, others are not."""

import re
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import prepare_weights
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.family_checkpoint import RECIPE, V2_5, V2_6, config_of, store, write
from tests.support.hub_checkpoint import random_mtp_weights
from tests.support.tiny import built

RANKS = 4
QKV = "self_attn.qkv_proj.weight"
FULL, SLIDING = f"model.layers.0.{QKV}", f"model.layers.1.{QKV}"
HEAD = f"model.mtp.layers.0.{QKV}"
K, V = (f"model.layers.0.self_attn.{letter}_proj.weight" for letter in "kv")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[dict[str, np.ndarray], MiMoConfig]:
    folder = tmp_path_factory.mktemp("saved")
    built(RECIPE).save_pretrained(folder)
    config = MiMoConfig.from_pretrained(folder)
    return load_file(folder / "model.safetensors") | random_mtp_weights(config, 0), config


def written(weights, layout, folder: Path, change) -> FolderSource:
    """Write a checkpoint whose tensors `change` has changed."""
    arrays, config = weights
    stored, _ = store(arrays, layout, RANKS)
    change(stored)
    folder.mkdir(exist_ok=True)
    write(folder, stored, config_of(config, layout))
    return FolderSource(folder)


def check(weights, layout, folder: Path, change) -> None:
    """Check the bytes of a checkpoint whose tensors `change` has changed."""
    source = written(weights, layout, folder, change)
    config, experts = MiMoConfig.from_pretrained(folder), tuple(range(RECIPE.experts))
    job = plan_conversion_job(source, config, folder / "out", Encoding("fp8", "cpu"), experts)
    job.run(workers=2, advance=id)
    assert job.sample == {}  # all was converted


def moved(stored: dict[str, np.ndarray], name: str, rows: list[int]) -> None:
    """Put a rank's q, k and v, of so many rows, beside those of other ranks; leave the scales."""
    ranks = [np.split(rank, np.cumsum(rows)[:-1]) for rank in np.split(stored[name], RANKS)]
    stored[name] = np.concatenate([np.concatenate(part) for part in zip(*ranks, strict=True)])


@pytest.mark.parametrize("layout", [V2_5, V2_6, replace(V2_5, order="split")], ids=str)
def test_a_checkpoint_as_it_was_made_passes(weights, tmp_path, layout):
    check(weights, layout, tmp_path, lambda _: None)


@pytest.mark.parametrize(
    ("name", "rows"), [(FULL, [384, 192, 128]), (SLIDING, [320, 384, 320]), (HEAD, [320, 384, 320])]
)
def test_rows_that_were_moved_under_their_scales_are_refused(weights, tmp_path, name, rows):
    """A sliding layer's parts are whole blocks, which move as such: there the cut is elsewhere."""
    with pytest.raises(ValueError, match=re.escape(f": {name}: ")) as refusal:
        check(weights, V2_5, tmp_path, lambda stored: moved(stored, name, rows))
    message = r": (\d+) of (\d+) blocks of a sample lack the largest code, which (\d+) of"
    lacking, blocks, certain = map(int, re.search(message, str(refusal.value)).groups())
    assert 0 < lacking < blocks
    assert certain > 0
    assert str(refusal.value).startswith(str(tmp_path))


def test_nothing_is_prepared_of_such_a_checkpoint(weights, tmp_path, capsys):
    source = written(weights, V2_5, tmp_path / "hub", lambda s: moved(s, FULL, [384, 192, 128]))
    output = tmp_path / "prepared"
    assert prepare_weights.main(["--checkpoint", source.name, "--output", str(output)]) == 2
    assert "blocks of a sample lack the largest code" in capsys.readouterr().err
    assert not list(output.glob("*.safetensors*"))


def test_k_and_v_that_were_cut_from_a_fused_weight_are_refused(weights, tmp_path):
    """Their scale rows have the right number, and are of other rows."""

    def cut(stored):
        heads = np.split(stored[K], RANKS)
        stored[K] = np.concatenate([np.roll(head, 64, axis=0) for head in heads])

    with pytest.raises(ValueError, match=re.escape(f": {K} and {V}: ")):
        check(weights, replace(V2_5, order="split"), tmp_path, cut)


def test_another_quantizer_is_not_judged(weights, tmp_path):
    def halve(stored):
        moved(stored, FULL, [384, 192, 128])
        for name, array in stored.items():
            if array.dtype == ml_dtypes.float8_e4m3fn:
                stored[name] = (array.astype(np.float32) / 2).astype(array.dtype)

    check(weights, V2_5, tmp_path, halve)


def test_blocks_of_zeros_are_not_counted():
    code = np.zeros((130, 129), np.uint8)
    assert BlockScaled.full_blocks(code) == (0, 0)
    code[:, 0], code[129, 128] = 0x11, 0x80  # minus zero
    assert BlockScaled.full_blocks(code) == (0, 2)
    code[0, 0], code[129, 128] = 0x7E, 0xFE
    assert BlockScaled.full_blocks(code) == (2, 3)
