"""Counted weights: bytes, names and shapes are those of the weights that a model really has."""

import warnings

import pytest

from mimo_v2_flash import load_weights
from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.params import MoEWeights, nbytes
from mimo_v2_flash.checkpoint.source import open_checkpoint
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.checkpoint.weight_counts import count_weights, counted_table
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.isq_load import load_quantized
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.shipped import FOLDER

CONFIG = MiMoConfig.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def stored():
    return load_weights(FOLDER, CONFIG)


def sinks(weights) -> int:
    layers = [*weights.layers, *(head.layer for head in weights.mtp)]
    return sum(layer.attention.sink_H.nbytes for layer in layers)


def experts(weights) -> int:
    mixtures = [w.feed_forward for w in weights.layers if isinstance(w.feed_forward, MoEWeights)]
    return sum(nbytes(mixture.experts) for mixture in mixtures)


@pytest.mark.parametrize("isq", [None, "8", "int4", "MXFP4"])
def test_bytes_are_those_of_the_weights_that_are_loaded(stored, isq):
    request = IsqRequest.of(isq)
    loaded = load_quantized(FOLDER, CONFIG, request) if isq else stored
    table = counted_table(count_weights(stored, CONFIG), request)
    named = sum(row.nbytes for row in table)
    assert nbytes(loaded) - sinks(loaded) <= named <= nbytes(loaded)
    assert sum(row.nbytes for row in table if row.is_expert) == experts(loaded)


def test_every_name_is_in_the_checkpoint_but_for_fused_ones(stored):
    tensors = open_checkpoint(FOLDER)
    names = [each.weight.name for each in count_weights(stored, CONFIG)]
    assert len(names) == len(set(names))
    assert {name for name in names if name not in tensors} == set()
    numbers = {each.number for each in count_weights(stored, CONFIG)}
    assert numbers == {1, CONFIG.n_routed_experts}


def test_what_a_token_reads_is_neither_the_embedding_nor_a_draft_head(stored):
    table = counted_table(count_weights(stored, CONFIG), IsqRequest())
    unread = {row.row.name.split(".")[1] for row in table if not row.is_read}
    assert unread == {"embed_tokens", "mtp"}


@pytest.mark.parametrize(("tensor", "data"), [(1, 2), (2, 1), (2, 2)])
def test_a_rank_counts_its_shard(stored, tensor, data):
    parallel = ParallelConfig(tensor_parallel_size=tensor, data_parallel_size=data)
    shard = shard_weights(stored, CONFIG, parallel.shard_spec(1))
    table = counted_table(count_weights(shard, CONFIG), IsqRequest())
    assert sum(row.nbytes for row in table if row.is_expert) == experts(shard)
    named = sum(row.nbytes for row in table)
    assert nbytes(shard) - sinks(shard) <= named <= nbytes(shard)


def test_a_topology_decides_by_layers_and_names(stored):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        request = IsqRequest.of("8", FOLDER.parents[1] / "topologies" / "isq.yml")
        loaded = load_quantized(FOLDER, CONFIG, request)
    table = counted_table(count_weights(stored, CONFIG), request)
    assert nbytes(loaded) - sinks(loaded) <= sum(row.nbytes for row in table) <= nbytes(loaded)
