"""Shards are the cuts of the whole, tensor for tensor, and the source is read once for all."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.block_scale import BlockScaled, dequantize
from mimo_v2_flash.parallel_config import ShardSpec, all_shard_specs
from mimo_v2_flash.weights import conversion_tasks, load_weights
from mimo_v2_flash.weights.convert import ConversionJob, plan_conversion_job
from mimo_v2_flash.weights.encoding import Encoding
from mimo_v2_flash.weights.params import ModelWeights, nbytes
from mimo_v2_flash.weights.shard_weights import shard_weights
from mimo_v2_flash.weights.source import FolderSource
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny

# MiMo's head widths, 4 and 8 KV heads; whole FP8 columns on 8 ranks.
WIDE = dataclasses.replace(RECIPE, dense_width=1024, experts=8)


@pytest.fixture(scope="module", params=[False, True], ids=["split", "fused"])
def source(request, tmp_path_factory) -> Path:
    model, folder = tiny(WIDE).oracle, tmp_path_factory.mktemp("hub")
    return write_hub_checkpoint(model, folder, fused=request.param).folder


@pytest.fixture(autouse=True)
def several_pieces_per_tensor(monkeypatch):
    monkeypatch.setattr(conversion_tasks, "PIECE", 20_000)


class Watched(FolderSource):
    """A folder that counts how often each range is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads = Counter()

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Read and count."""
        self.reads[file, begin, end] += 1
        return super().read(file, begin, end)


def prepared(
    source: FolderSource, output: Path, *, dtype="fp8", experts=range(8), **split
) -> ConversionJob:
    config = MiMoConfig.from_pretrained(source.name)
    job = plan_conversion_job(
        source, config, output, Encoding(dtype, "cpu"), tuple(experts), **split
    )
    job.run(workers=2, advance=id)
    return job


def leaves(weights) -> list[np.ndarray]:
    """Return every array of a record, FP8 as what it stands for."""
    if isinstance(weights, BlockScaled):
        return [dequantize(weights)]
    if isinstance(weights, tuple):
        return [leaf for part in weights for leaf in leaves(part)]
    return [np.asarray(weights)]


def assert_same(found: ModelWeights, expected: ModelWeights) -> None:
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["fp8", "bfloat16"])
@pytest.mark.parametrize(
    "split", [(8, 1), (1, 2), (2, 4), (4, 8)], ids=lambda split: f"P {split[0]} T {split[1]}"
)
def test_a_shard_is_the_cut_of_the_whole(source, tmp_path, split, dtype):
    watched, (experts, heads) = Watched(source), split
    whole = prepared(FolderSource(source), tmp_path / "whole", dtype=dtype)
    job = prepared(
        watched,
        tmp_path / "shards",
        dtype=dtype,
        expert_parallel=experts,
        tensor_parallel=heads,
    )
    assert set(watched.reads.values()) == {1}
    assert job.bytes_to_read == whole.bytes_to_read
    weights, shares = load_weights(tmp_path / "whole", job.config), all_shard_specs(*split)
    assert len(job.store.folders) == len(shares)
    for share in shares:
        found = load_weights(tmp_path / "shards", job.config, share=share)
        assert found.shard_spec == share
        assert_same(found, shard_weights(weights, job.config, share))


def test_a_shard_of_some_experts_is_the_cut_of_them(source, tmp_path):
    ids = (0, 3, 4, 7)
    whole = prepared(FolderSource(source), tmp_path / "whole", experts=ids)
    split = {"expert_parallel": 4, "tensor_parallel": 2}
    prepared(FolderSource(source), tmp_path / "shards", experts=ids, **split)
    weights = load_weights(tmp_path / "whole", whole.config)
    few = dataclasses.replace(whole.config, n_routed_experts=4)
    for share in all_shard_specs(4, 2):
        found = load_weights(tmp_path / "shards", whole.config, share=share)
        assert found.expert_ids == ids
        assert_same(found, shard_weights(weights, few, share))


def test_a_rank_has_its_share_of_the_bytes_and_what_is_not_split(source, tmp_path):
    job = prepared(FolderSource(source), tmp_path, expert_parallel=4, tensor_parallel=2)
    weights = load_weights(source, job.config)
    for share, folder in zip(all_shard_specs(4, 2), job.store.folders, strict=True):
        on_disk = sum(path.stat().st_size for path in (tmp_path / folder).glob("*.safetensors"))
        expected = nbytes(shard_weights(weights, job.config, share))
        assert expected * 0.95 < on_disk < expected * 1.05


@pytest.mark.parametrize("portion", [0.2, 0.9])
def test_shards_cut_off_are_continued(source, tmp_path, monkeypatch, portion):
    split = {"expert_parallel": 2, "tensor_parallel": 2}
    watched, at_once, cut_off = Watched(source), tmp_path / "at once", tmp_path / "cut off"
    prepared(watched, at_once, **split)
    left, real = [int(portion * watched.reads.total())], FolderSource.read

    def failing(self, *info):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("cut off")
        return real(self, *info)

    monkeypatch.setattr(FolderSource, "read", failing)
    with pytest.raises(OSError, match="cut off"):
        prepared(FolderSource(source), cut_off, **split)
    assert {path.suffix for path in every_file(cut_off)} == {".partial", ".journal"}
    monkeypatch.undo()
    prepared(FolderSource(source), cut_off, **split)
    files = [path.relative_to(at_once) for path in every_file(at_once)]
    assert len(files) == 2 * 3 + 2  # each shard's weights, index and config; config and manifest
    for file in files:
        assert (at_once / file).read_bytes() == (cut_off / file).read_bytes()


def every_file(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_cut_inside_a_block_is_refused_before_anything_is_written(tmp_path):
    model = tiny(dataclasses.replace(RECIPE, dense_width=264)).oracle
    hub = write_hub_checkpoint(model, tmp_path / "hub").folder
    said = r"mlp.gate_proj.weight: shares of 132 rows cut FP8 blocks of 128 apart: allowed"
    source = FolderSource(hub)
    with pytest.raises(ValueError, match=said):
        prepared(source, tmp_path / "out", experts=range(5), tensor_parallel=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"expert_parallel": 3}, "expert_parallel_size = 3: 8 experts are no multiple"),
        ({"tensor_parallel": 3}, "tensor_parallel_size = 3: allowed is a divisor of 8 query heads"),
    ],
)
def test_a_split_that_the_model_does_not_admit_is_refused(source, tmp_path, split, said):
    with pytest.raises(ValueError, match=said):
        prepared(FolderSource(source), tmp_path / "out", **split)


def test_shares_are_of_the_same_block_height(source, tmp_path):
    """One program serves every rank: FP8 grids of equal shares are equal in shape."""
    job = prepared(FolderSource(source), tmp_path, tensor_parallel=8)
    shapes = set()
    for share in all_shard_specs(1, 8):
        found = load_weights(tmp_path, job.config, share=share)
        attention = (layer.attention[:3] for layer in found.layers)
        shapes.add(tuple((w.block_height, w.scale.shape) for record in attention for w in record))
    assert len(shapes) == 1
    assert ShardSpec(0, 8, 0, 1) in all_shard_specs(1, 8)
