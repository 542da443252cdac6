"""Tests of shard_conversion_plan: shards are slices of the whole, and the source is read once."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.params import ModelWeights, nbytes
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert import plan as conversion_tasks
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import ConversionJob, plan_conversion_job
from mimo_v2_flash.execution.pytree import tree_leaves
from mimo_v2_flash.parallel_config import ShardSpec, all_shard_specs
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny

# MiMo's head widths, 4 and 8 KV heads; whole FP8 columns on 8 ranks.
WIDE = dataclasses.replace(RECIPE, dense_width=1024, experts=8)


@pytest.fixture(scope="module", params=[False, True], ids=["split", "fused"])
def source(request, tmp_path_factory) -> Path:
    model, folder = tiny(WIDE).oracle, tmp_path_factory.mktemp("hub")
    return write_hub_checkpoint(model, folder, fused=request.param).folder


@pytest.fixture(autouse=True)
def several_tasks_per_tensor(monkeypatch):
    monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 20_000)


class CountingSource(FolderSource):
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
    """Return every array of a pytree, with FP8 dequantised."""
    return [
        leaf.dequantize() if isinstance(leaf, BlockScaled) else np.asarray(leaf)
        for leaf in tree_leaves(weights, leaf=BlockScaled).values()
    ]


def assert_same(actual: ModelWeights, expected: ModelWeights) -> None:
    for one, other in zip(leaves(actual), leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["fp8", "bfloat16"])
@pytest.mark.parametrize(
    "split", [(8, 1), (1, 2), (2, 4), (4, 8)], ids=lambda split: f"P {split[0]} T {split[1]}"
)
def test_a_shard_is_a_slice_of_the_whole(source, tmp_path, split, dtype):
    counting, (experts, heads) = CountingSource(source), split
    whole = prepared(FolderSource(source), tmp_path / "whole", dtype=dtype)
    job = prepared(
        counting,
        tmp_path / "shards",
        dtype=dtype,
        expert_parallel=experts,
        tensor_parallel=heads,
    )
    assert set(counting.reads.values()) == {1}
    assert job.bytes_to_read == whole.bytes_to_read
    weights, shard_specs = load_weights(tmp_path / "whole", job.config), all_shard_specs(*split)
    assert len(job.store.folders) == len(shard_specs)
    for shard_spec in shard_specs:
        shard = load_weights(tmp_path / "shards", job.config, share=shard_spec)
        assert shard.shard_spec == shard_spec
        assert_same(shard, shard_weights(weights, job.config, shard_spec))


def test_a_shard_of_some_experts_is_a_slice_of_them(source, tmp_path):
    ids = (0, 3, 4, 7)
    whole = prepared(FolderSource(source), tmp_path / "whole", experts=ids)
    split = {"expert_parallel": 4, "tensor_parallel": 2}
    prepared(FolderSource(source), tmp_path / "shards", experts=ids, **split)
    weights = load_weights(tmp_path / "whole", whole.config)
    few = dataclasses.replace(whole.config, n_routed_experts=4)
    for shard_spec in all_shard_specs(4, 2):
        shard = load_weights(tmp_path / "shards", whole.config, share=shard_spec)
        assert shard.expert_ids == ids
        assert_same(shard, shard_weights(weights, few, shard_spec))


def test_a_shard_has_its_part_of_the_bytes_and_what_is_not_split(source, tmp_path):
    job = prepared(FolderSource(source), tmp_path, expert_parallel=4, tensor_parallel=2)
    weights = load_weights(source, job.config)
    for shard_spec, folder in zip(all_shard_specs(4, 2), job.store.folders, strict=True):
        on_disk = sum(path.stat().st_size for path in (tmp_path / folder).glob("*.safetensors"))
        expected = nbytes(shard_weights(weights, job.config, shard_spec))
        assert expected * 0.95 < on_disk < expected * 1.05


@pytest.mark.parametrize("portion", [0.2, 0.9])
def test_shards_cut_off_are_continued(source, tmp_path, monkeypatch, portion):
    split = {"expert_parallel": 2, "tensor_parallel": 2}
    counting, at_once, interrupted = (
        CountingSource(source),
        tmp_path / "at once",
        tmp_path / "cut off",
    )
    prepared(counting, at_once, **split)
    left, real = [int(portion * counting.reads.total())], FolderSource.read

    def failing(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("cut off")
        return real(self, *args)

    monkeypatch.setattr(FolderSource, "read", failing)
    with pytest.raises(OSError, match="cut off"):
        prepared(FolderSource(source), interrupted, **split)
    assert {path.suffix for path in every_file(interrupted)} == {".partial", ".journal"}
    monkeypatch.undo()
    prepared(FolderSource(source), interrupted, **split)
    files = [path.relative_to(at_once) for path in every_file(at_once)]
    assert len(files) == 2 * 3 + 2  # each shard's weights, index and config; config and manifest
    for file in files:
        assert (at_once / file).read_bytes() == (interrupted / file).read_bytes()


def every_file(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_slice_inside_a_block_is_refused_before_anything_is_written(tmp_path):
    model = tiny(dataclasses.replace(RECIPE, dense_width=264)).oracle
    hub = write_hub_checkpoint(model, tmp_path / "hub").folder
    message = r"mlp.gate_proj.weight: shards of 132 rows split FP8 blocks of 128: choose"
    source = FolderSource(hub)
    with pytest.raises(ValueError, match=message):
        prepared(source, tmp_path / "out", experts=range(5), tensor_parallel=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"expert_parallel": 3}, "expert_parallel_size = 3: allowed is a divisor of 8 experts"),
        ({"tensor_parallel": 3}, "tensor_parallel_size = 3: allowed is a divisor of 8 query heads"),
    ],
)
def test_a_split_that_the_model_does_not_admit_is_refused(source, tmp_path, split, message):
    with pytest.raises(ValueError, match=message):
        prepared(FolderSource(source), tmp_path / "out", **split)


def test_shards_are_of_the_same_block_height(source, tmp_path):
    """One program serves every rank: FP8 grids of equal shards are equal in shape."""
    job = prepared(FolderSource(source), tmp_path, tensor_parallel=8)
    shapes = set()
    for shard_spec in all_shard_specs(1, 8):
        shard = load_weights(tmp_path, job.config, share=shard_spec)
        attention = (layer.attention[:3] for layer in shard.layers)
        shapes.add(tuple((w.block_height, w.scale.shape) for record in attention for w in record))
    assert len(shapes) == 1
    assert ShardSpec(0, 8, 0, 1) in all_shard_specs(1, 8)
