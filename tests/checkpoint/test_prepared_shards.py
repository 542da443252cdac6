"""Tests of shards: a rank opens only its shard; another rank's or checkpoint's is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint.prepared import MANIFEST
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import UNSHARDED, ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.damage import cut, overwrite
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny

PARALLEL = ParallelConfig(5, 1, 5)
SECOND, FILE = "rank-00001-of-00005", "mimo_weights.safetensors"
EXPERT = "model.layers.1.mlp.experts.1.up_proj.weight"
TOKEN_BT = np.arange(14).reshape(2, 7)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Return a checkpoint, and its shards."""
    folder = tmp_path_factory.mktemp("shards")
    hub = write_hub_checkpoint(tiny(RECIPE).oracle, folder / "hub").folder
    sharded(hub, folder / "shards", expert_parallel=5)
    return hub, folder / "shards"


@pytest.fixture
def shards(folders, tmp_path) -> Path:
    """Return a copy of the shards, to be damaged."""
    return Path(shutil.copytree(folders[1], tmp_path / "shards"))


def sharded(source: Path, output: Path, encoding=("fp8", "cpu"), **split) -> None:
    config, experts = MiMoConfig.from_pretrained(source), tuple(range(RECIPE.experts))
    job = plan_conversion_job(
        FolderSource(source), config, output, Encoding(*encoding), experts, **split
    )
    job.run(workers=2, advance=id)


def opened(shards: Path, rank: int = 1, parallel: ParallelConfig = PARALLEL):
    return load_weights(shards, MiMoConfig.from_pretrained(shards), share=parallel.shard_spec(rank))


def refused(shards: Path, message: str, **options) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        opened(shards, **options)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    "parallel", [PARALLEL, ParallelConfig(5, 1, 10), ParallelConfig(1, 1, 4)], ids=str
)
def test_ranks_that_open_their_shards_are_the_whole_model(folders, tmp_path, parallel):
    hub, folder = folders
    if parallel.expert_parallel_size == 1:  # nothing is split but rows: an ordinary checkpoint
        sharded(hub, folder := tmp_path / "one")
        assert not (folder / MANIFEST).exists()
    config, group = MiMoConfig.from_pretrained(folder), ThreadGroup(parallel.world_size)
    expected_BTV = MiMoV2FlashModel(load_weights(hub, config), config).forward(TOKEN_BT)

    def on_rank(rank: int) -> np.ndarray:
        weights = load_weights(folder, config, share=parallel.shard_spec(rank))
        return MiMoV2FlashModel(weights, config, group=group, plan=parallel).forward(TOKEN_BT)

    for logits_BTV in group.run(on_rank):
        assert_agrees(logits_BTV, expected_BTV, scale=float(np.ptp(expected_BTV)))


@pytest.mark.parametrize("encoding", [("fp8", "trainium2"), ("bfloat16", "cpu")])
def test_ranks_whose_shards_were_converted_otherwise_are_told_apart(folders, tmp_path, encoding):
    sharded(folders[0], tmp_path / "other", encoding, expert_parallel=5)
    group = ThreadGroup(PARALLEL.world_size)

    def on_rank(rank: int) -> None:
        folder = tmp_path / "other" if rank == 3 else folders[1]
        config = MiMoConfig.from_pretrained(folder)
        weights = load_weights(folder, config, share=PARALLEL.shard_spec(rank))
        assert weights.prepared == (encoding if rank == 3 else ("fp8", "cpu"))
        MiMoV2FlashModel(weights, config, group=group, plan=PARALLEL)

    with pytest.raises(ValueError, match=r"agree on weights: .*; '.*' on rank 3"):
        group.run(on_rank)


def test_a_shard_can_be_opened_by_its_folder(folders):
    folder = folders[1] / SECOND
    weights = load_weights(folder, MiMoConfig.from_pretrained(folder))
    assert weights.shard_spec == PARALLEL.shard_spec(1)


# What is refused


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        (
            ParallelConfig(1, 4, 1),
            "shards: holds shards of expert_parallel 5 and tensor_parallel 1, requested is "
            "expert_parallel 1 and tensor_parallel 4",
        ),
        (
            ParallelConfig(1, 1, 5),
            "requested is expert_parallel 1 and tensor_parallel 1; prepare_weights",
        ),
    ],
)
def test_another_parallel_config_is_refused(shards, parallel, message):
    refused(shards, message, rank=0, parallel=parallel)


def test_which_shard_must_be_requested(shards):
    with pytest.raises(ValueError, match=r"expert_parallel 5 .*, requested is no shard"):
        load_weights(shards, MiMoConfig.from_pretrained(shards))


def test_another_ranks_shard_is_refused(shards):
    shutil.rmtree(shards / SECOND)
    shutil.copytree(shards / "rank-00003-of-00005", shards / SECOND)
    refused(
        shards,
        rf"{SECOND}: is the shard of ShardSpec\(.*expert_parallel_rank=3.*this rank's is .*_rank=1",
    )


def test_a_shard_of_another_checkpoint_is_refused(folders, shards, tmp_path):
    long = tmp_path / ("a" * 100)
    other = Path(shutil.copytree(folders[0], long / "other"))
    sharded(other, tmp_path / "others", expert_parallel=5)
    shutil.rmtree(shards / SECOND)
    shutil.copytree(tmp_path / "others" / SECOND, shards / SECOND)
    refused(shards, rf"{SECOND}: is a shard of source '.*other', its manifest has '.*hub'")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut(f"{SECOND}/{FILE}", -9), rf"{SECOND}/{FILE}: model\S+: bytes .*: truncat"),
        (cut(f"{SECOND}/{FILE}", 50), rf"{SECOND}/{FILE}: header of \d+ bytes in a file of 50"),
        (lambda shards: (shards / SECOND / FILE).unlink(), rf"{SECOND}/{FILE}: missing, though"),
        (lambda shards: shutil.rmtree(shards / SECOND), rf"{SECOND}: no such file or folder"),
        (overwrite(MANIFEST, b"<"), rf"{MANIFEST}: damaged, or of another release"),
    ],
    ids=["truncated", "header", "no file", "no folder", "manifest"],
)
def test_damage_is_named(shards, damage, message):
    damage(shards)
    refused(shards, message)


def test_a_manifest_with_too_few_shards_is_refused(shards):
    manifest = json.loads((shards / MANIFEST).read_text())
    manifest["shards"].pop()
    (shards / MANIFEST).write_text(json.dumps(manifest))
    refused(shards, rf"{MANIFEST}: damaged, or of another release: 4 shards")


@pytest.mark.parametrize(
    "outside", ["/etc", "..", ".", "", "../shards", "a/b", "a\\b", "C:a", "rank-00001-of-00005/."]
)
def test_a_manifest_names_folders_beside_it_alone(shards, outside):
    manifest = json.loads((shards / MANIFEST).read_text())
    manifest["shards"][1] = outside
    (shards / MANIFEST).write_text(json.dumps(manifest))
    refused(shards, rf"{MANIFEST}: damaged, .*: {re.escape(repr(outside))} is not beside it")


def test_shards_of_two_preparations_of_one_path_are_refused(folders, shards, tmp_path):
    """Norms and biases agree, so that nothing else would notice: only the experts are others."""
    hub = Path(shutil.copytree(folders[0], tmp_path / "hub"))
    sharded(hub, tmp_path / "before", expert_parallel=5)
    overwrite("model_1_linear_fc1.safetensors", b"\x11" * 9, EXPERT)(hub)
    sharded(hub, tmp_path / "after", expert_parallel=5)
    shutil.rmtree(tmp_path / "before" / SECOND)
    shutil.copytree(tmp_path / "after" / SECOND, tmp_path / "before" / SECOND)
    opened(tmp_path / "before", rank=0)
    refused(tmp_path / "before", rf"{SECOND}: is a shard of source_digest '.*', its manifest has '")


def test_a_model_on_another_rank_refuses_a_shard(folders):
    weights = opened(folders[1])
    config = MiMoConfig.from_pretrained(folders[1])
    with pytest.raises(
        ValueError, match=r"the weights are ShardSpec\(.*, this rank's are ShardSpec\("
    ):
        MiMoV2FlashModel(weights, config)
    with pytest.raises(ValueError, match="expert_subset of a shard, ShardSpec"):
        MiMoV2FlashModel(weights, config, [0, 1])
    assert weights.shard_spec != UNSHARDED
