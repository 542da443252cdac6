"""Memory of devices: counted bytes equal those of real arrays, and MiMo's equal known numbers."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.params import MoEWeights, nbytes
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import HubLayout
from mimo_v2_flash.costs import Workload, devices
from mimo_v2_flash.costs.devices import cache_bytes, weight_bytes
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.hooks import HookedLayers
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import UNSHARDED, ParallelConfig
from tests.support.drawn import cached, floats
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.spread import admitting, favouring, plans
from tests.support.tiny import Recipe, random_tokens, recipes, running, tiny

MIMO = MiMoConfig()
WORKLOAD = Workload(batch_size=1, context=1, step=1)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
CONFIG = tiny().config
DRAFTING = MiMoV2FlashModel(random_weights(CONFIG, seed=0, mtp_heads=3), CONFIG)


def kinds_of(weights) -> dict[str, int]:
    """Return the bytes of real weights by kind."""
    networks = [layer.feed_forward for layer in weights.layers]
    sparse = [network for network in networks if isinstance(network, MoEWeights)]
    norms = [w for layer in weights.layers for w in (layer[0], layer[2])]
    size_of_kind = {
        "norms": nbytes((*norms, weights.final_norm_D)),
        "embedding": nbytes(weights.embedding_VD),
        "head": nbytes(weights.w_logits_VD),
        "attention": nbytes(tuple(layer.attention for layer in weights.layers)),
        "dense": nbytes(tuple(n for n in networks if not isinstance(n, MoEWeights))),
        "experts": nbytes(tuple(network.experts for network in sparse)),
        "router": nbytes(tuple((n.w_router_ED, n.bias_E) for n in sparse)),
        "mtp": nbytes(weights.mtp),
    }
    return {kind: size for kind, size in size_of_kind.items() if size}


@pytest.mark.parametrize(
    "plan",
    [ParallelConfig(), ParallelConfig(8, 8), ParallelConfig(4, 2, 2), ParallelConfig(2, 4, 2)],
    ids=str,
)
def test_fp8_weights_of_a_rank_are_counted_to_the_byte(tmp_path, plan):
    """Keys and values share scales, heads begin inside blocks, the vocabulary divides unevenly."""
    recipe = replace(RECIPE, experts=8, dense_width=1024, queries_per_kv_head=4)
    hub = write_hub_checkpoint(tiny(recipe).oracle, tmp_path).folder
    config = MiMoConfig.from_pretrained(hub)
    weights = load_weights(hub, config)
    shards = [plan.shard_spec(rank) for rank in range(plan.world_size)]
    actual = weight_bytes(config, shards, "fp8", len(weights.mtp))
    assert actual == [kinds_of(shard_weights(weights, config, shard)) for shard in shards]


def test_mxfp4_experts_are_counted_as_they_are_loaded():
    config = replace(tiny(replace(RECIPE, hidden=160, expert_width=96)).config)
    layout = HubLayout(fused=True, expert_format="mxfp4", router_dtype="BF16")
    real = kinds_of(random_weights(config, seed=0, layout=layout, mtp_heads=3))
    counted = weight_bytes(config, [UNSHARDED], "fp8", 3, layout)[0]
    assert {**counted, "attention": 0, "mtp": 0} == {**real, "attention": 0, "mtp": 0}
    sparse = sum(spec.num_experts for spec in config.layers)
    assert counted["experts"] == sparse * 3 * 160 * 96 * 17 // 32


@settings(max_examples=15)
@given(st.data(), st.sampled_from([1, 2, 4]), recipes(), st.integers(1, 5), st.integers(1, 30))
def test_what_a_model_holds_on_every_rank_is_counted(data, world, recipe, batch_size, context):
    plan = data.draw(plans(world))
    model, dtype = tiny(admitting(recipe, plan)), data.draw(floats)
    workload = Workload(batch_size, context, context, "float32", dtype)
    group = ThreadGroup(world)

    def program(rank: int):
        rank_model = running(model, group=group, plan=plan)
        return kinds_of(rank_model.weights), rank_model.new_cache(batch_size, context, dtype).nbytes

    actual = [(device.weights, device.cache) for device in devices(model.config, plan, workload)]
    assert actual == group.run(program)


@given(st.integers(0, 5), st.integers(1, 300), floats, st.sampled_from([1, 4, 8]))
def test_a_cache_is_counted_to_the_byte(rows, context, dtype, tensor_parallel):
    shard = ParallelConfig(1, tensor_parallel).shard_spec(tensor_parallel - 1)
    sizes = {"batch_size": 5, "max_length": context, "dtype": dtype, "sequences": rows}
    real = new_cache(tuple(map(shard.local_layer, MIMO.layers)), **sizes)
    assert (
        cache_bytes(MIMO, shard, rows, replace(WORKLOAD, context=context, cache_dtype=dtype))
        == real.nbytes
    )


@given(st.integers(1, 3), st.integers(1, 60), cached, st.integers(0, 3))
def test_what_drafts_add_to_a_cache_is_counted_to_the_byte(rows, context, dtype, draft_tokens):
    real = DRAFTING.new_cache(rows, context, dtype, mtp_heads=draft_tokens)
    workload = Workload(rows, context, 1, cache_dtype=dtype, draft_tokens=draft_tokens)
    assert cache_bytes(CONFIG, UNSHARDED, rows, workload) == real.nbytes


@pytest.mark.parametrize(
    "plan",
    [ParallelConfig(), ParallelConfig(4, 1, 4), ParallelConfig(4, 2, 2), ParallelConfig(8, 8)],
    ids=str,
)
@pytest.mark.parametrize("exchange", ["all_gather", "all_to_all"])
def test_buffers_are_the_largest_arrays_of_a_step(plan, exchange):
    batch_size, step = 4, 6
    model = tiny(admitting(Recipe(experts=16, experts_per_token=2), plan))
    count = model.config.n_routed_experts // plan.expert_parallel_size
    model = favouring(model, slice(0, count))  # every token comes to the first rank's experts
    token_BT = random_tokens(model, batch_size, step)
    group = ThreadGroup(plan.world_size)

    def program(rank: int):
        sizes = {"layer": 0, "attend": 0, "experts": 0}

        def hook(call):
            if call.part == "layer":
                sizes["layer"] = 2 * call.args[0].nbytes
            if call.part == "attend":
                q_BTHQ, active = call.args[:2]
                size = sum(x.nbytes for x in (q_BTHQ, *active[:2], call.output))
                sizes["attend"] = max(sizes["attend"], size)
            if call.part == "experts":
                sizes["experts"] = sum(x.nbytes for x in (*call.args[:3], call.output))

        backend = HookedLayers(hook)
        rank_model = running(model, group=group, plan=plan, backend=backend, exchange=exchange)
        position_BT = np.tile(np.arange(step), (batch_size, 1))
        cache = rank_model.new_cache(batch_size, step)
        last = np.full((batch_size, 1), step - 1)
        logits = rank_model.step(token_BT, position_BT, cache, logits_at=last)
        return {
            "stream": sizes["layer"],
            "attention": sizes["attend"],
            "exchange": sizes["experts"],
            "logits": logits.nbytes,
        }

    expected = group.run(program)[0]
    workload = Workload(batch_size, step, step, "float32")
    assert devices(model.config, plan, workload)[0].buffers == expected


def test_mimo_alone_is_the_checkpoint_but_for_vectors_and_shared_scales():
    """Source: 311,862,258,560 bytes in the hub's files, 1,189,400,448 of three MTP heads."""
    device = devices(MIMO, ParallelConfig(), replace(WORKLOAD, mtp_heads=3))[0]
    heads = device.weights["mtp"]
    widened = 2 * (97 * 4096 + 39 * 64)  # norms and sinks, from bfloat16 to float32
    no_sinks = 9 * 64 * 4  # of full layers
    rows_of_scales = 9 * (12 + 8 - 8 - 4) * 32 * 4  # K and V of full layers, in blocks of 64
    trunk = sum(device.weights.values()) - heads
    assert trunk == 311_862_258_560 + widened + no_sinks + rows_of_scales
    assert heads == 1_189_400_448 + 3 * 2 * (5 * 4096 + 64)


def test_bfloat16_mimo_is_617_7_gigabytes():
    size_of_kind = weight_bytes(MIMO, [UNSHARDED], "bfloat16")[0]
    assert round(sum(size_of_kind.values()) / 1e9, 1) == 617.7


@pytest.mark.parametrize(
    ("plan", "dtype", "gigabytes"),
    [(32, "fp8", 9.46), (32, "bfloat16", 18.92), (64, "fp8", 4.73), (64, "bfloat16", 9.46)],
)
def test_experts_of_mimo_on_a_rank(plan, dtype, gigabytes):
    """Source: 3 x 4096 x 2048 numbers an expert, and a scale for each 128 x 128 of them."""
    shard = ParallelConfig(plan, 4, plan // 4).shard_spec(0)
    size_of_kind = weight_bytes(MIMO, [shard], dtype)[0]
    assert round(size_of_kind["experts"] / 1e9, 2) == gigabytes


def test_the_cache_of_mimo_grows_by_23040_bytes_a_token():
    workload = replace(WORKLOAD, cache_dtype=BFLOAT16)
    at = {
        n: cache_bytes(MIMO, UNSHARDED, 1, replace(workload, context=n))
        for n in (132, 4096, 262144)
    }
    position, full_layers = 4, 9
    assert (at[262144] - at[4096]) == (262144 - 4096) * (23_040 + full_layers * position)
    rings = at[132] - 133 * (23_040 + full_layers * position)
    assert rings == 39 * 133 * (8 * 320 * 2 + position)
    assert round(rings / 1e6) == 27
    ten = cache_bytes(MIMO, UNSHARDED, 10, replace(workload, context=4096))
    assert round(ten / at[4096], 2) == 9.98  # but for a row of each layer


def test_hundreds_of_devices_together_hold_the_whole():
    plan = ParallelConfig(256, 4, 64)
    shards = devices(MIMO, plan, Workload(64, 1000, 1))
    whole = devices(MIMO, ParallelConfig(), Workload(64, 1000, 1))[0]
    assert len(shards) == 256
    assert sum(device.weights["experts"] for device in shards) == whole.weights["experts"]
    assert sum(device.weights["head"] for device in shards) == 64 * whole.weights["head"]
    assert {device.weights["embedding"] for device in shards} == {whole.weights["embedding"]}


def test_the_total_is_all_of_it():
    device = devices(MIMO, ParallelConfig(), WORKLOAD)[0]
    parts = (*device.weights.values(), device.cache, *device.buffers.values())
    assert device.total == sum(parts)


def test_a_plan_that_the_model_does_not_admit_is_refused():
    with pytest.raises(ValueError, match="expert_parallel_size = 7"):
        devices(MIMO, ParallelConfig(7, 1, 7), WORKLOAD)
    with pytest.raises(ValueError, match="context = 300000"):
        devices(MIMO, ParallelConfig(), replace(WORKLOAD, context=300_000))
