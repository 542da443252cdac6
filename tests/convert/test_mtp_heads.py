"""MTP heads of prepared checkpoints: the source's weights, in every dtype, target and shard."""

import json
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.params import MTPWeights
from mimo_v2_flash.checkpoint.prepared import PREPARED_INDEX
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.checkpoint.source import FolderSource, open_checkpoint
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import STORED, TARGETS, Encoding
from mimo_v2_flash.convert.job import ConversionJob, plan_conversion_job
from mimo_v2_flash.convert.verify import compare_tensors, open_prepared
from mimo_v2_flash.parallel_config import ShardSpec, all_shard_specs
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.hub_checkpoint import RECIPE, HubCheckpoint, write_hub_checkpoint
from tests.support.tiny import tiny

# Whole FP8 columns on 8 ranks, 8 KV heads in MTP heads; few layers.
WIDE = replace(RECIPE, layers=RECIPE.layers[:2], dense_width=1024, experts=8)
EVERY = tuple(range(8))
SPLITS = [(1, 1), (4, 1), (1, 2), (2, 4), (1, 8)]


@pytest.fixture(scope="module", params=[False, True], ids=["split", "fused"])
def hub(request, tmp_path_factory) -> HubCheckpoint:
    return write_hub_checkpoint(
        tiny(WIDE).oracle, tmp_path_factory.mktemp("hub"), fused=request.param
    )


@pytest.fixture(autouse=True)
def not_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def job_of(hub: HubCheckpoint, output: Path, *encoding: str, experts=EVERY, **options):
    source, config = FolderSource(hub.folder), MiMoConfig.from_pretrained(hub.folder)
    encoding = Encoding(*encoding) if encoding else Encoding("fp8", "cpu")
    return plan_conversion_job(source, config, output, encoding, experts, **options)


def run(job: ConversionJob) -> ConversionJob:
    job.run(workers=2, advance=id)
    return job


def flat(head: MTPWeights) -> dict[str, Any]:
    """Return the weights of a head by the hub's names."""
    attention, network = head.layer.attention, head.layer.feed_forward
    return {
        "enorm": head.embedding_norm_D,
        "hnorm": head.hidden_norm_D,
        "input_layernorm": head.layer.attention_norm_D,
        "pre_mlp_layernorm": head.layer.feed_forward_norm_D,
        "final_layernorm": head.final_norm_D,
        "eh_proj": head.w_eh_DI,
        "self_attn.q_proj": attention.w_q_OD,
        "self_attn.k_proj": attention.w_k_OD,
        "self_attn.v_proj": attention.w_v_OD,
        "self_attn.o_proj": attention.w_o_DI,
        "self_attn.attention_sink_bias": attention.sink_H,
        "mlp.gate_proj": network.w_gate_FD,
        "mlp.up_proj": network.w_up_FD,
        "mlp.down_proj": network.w_down_DF,
    }


def sliced(name: str, value: np.ndarray, config: MiMoConfig, shard: ShardSpec) -> np.ndarray:
    """Return a rank's part of a weight, head by head; all of it if it is not split."""
    rank, ranks = shard.tensor_parallel_rank, shard.tensor_parallel_size
    part = name.rpartition(".")[2]
    if part in {"o_proj", "down_proj"}:
        return np.split(value, ranks, axis=1)[rank]
    if part in {"q_proj", "attention_sink_bias", "gate_proj", "up_proj"}:
        return np.split(value, ranks)[rank]
    if part in {"k_proj", "v_proj"}:
        heads = np.split(value, config.swa_num_key_value_heads)
        return np.concatenate(np.split(np.stack(heads), ranks)[rank])
    return value


def assert_is(actual: Any, expected: np.ndarray, dtype: str, target: str) -> None:
    if isinstance(actual, BlockScaled):
        assert dtype == "fp8"
        # A code that halving rounds moves by 2^-10 of the new scale, the double of the old one.
        allowed = 2.0**-10 * actual.scale.max() * (1 + 1e-5) if target == "trainium2" else 0
        assert np.abs(actual.dequantize() - expected).max() <= allowed
        return
    if STORED[dtype] and expected.ndim == 2:
        assert actual.dtype == DTYPES[STORED[dtype]]
        expected = expected.astype(actual.dtype)
    np.testing.assert_array_equal(actual, expected)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(list(STORED)),
    st.sampled_from(TARGETS),
    st.sampled_from(SPLITS),
    st.sampled_from([EVERY, (0, 3, 4, 7)]),
    st.data(),
)
def test_a_prepared_head_has_the_sources_weights(hub, dtype, target, split, experts, data):
    sizes = {"expert_parallel": split[0], "tensor_parallel": split[1]}
    shard = data.draw(st.sampled_from(all_shard_specs(*split)))
    with TemporaryDirectory() as folder:
        job = run(job_of(hub, Path(folder), dtype, target, experts=experts, **sizes))
        heads = load_weights(folder, job.config, share=shard).mtp
        assert len(heads) == job.prepared.mtp_heads == 3
        for index, head in enumerate(heads):
            for name, actual in flat(head).items():
                prefix = f"model.mtp.layers.{index}.{name}"
                value = hub.truth.get(f"{prefix}.weight", hub.truth.get(prefix))
                expected = sliced(name, value, job.config, shard)
                assert_is(actual, expected, dtype, target)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_a_head_of_the_source_has_its_weights_on_every_rank(hub, split):
    config = MiMoConfig.from_pretrained(hub.folder)
    weights = load_weights(hub.folder, config)
    for shard in all_shard_specs(*split):
        for index, head in enumerate(shard_weights(weights, config, shard).mtp):
            for name, actual in flat(head).items():
                prefix = f"model.mtp.layers.{index}.{name}"
                value = hub.truth.get(f"{prefix}.weight", hub.truth.get(prefix))
                assert_is(actual, sliced(name, value, config, shard), "fp8", "cpu")


def test_without_heads_files_are_those_of_the_last_release(hub, tmp_path):
    job = run(job_of(hub, tmp_path, mtp=False))
    tensors = open_checkpoint(tmp_path)
    assert not any(name.startswith("model.mtp.") for name in tensors)
    for _, metadata in tensors.metadata():
        assert "mtp_heads" not in metadata
    assert load_weights(tmp_path, job.config).mtp == ()
    assert job_of(hub, tmp_path, mtp=False).is_complete()
    with pytest.raises(ValueError, match="holds weights of mtp_heads 0, requested is 3; choose"):
        job_of(hub, tmp_path).is_complete()
    assert compare_tensors(open_prepared(tmp_path), job, workers=1, advance=id) == []
    lines = compare_tensors(open_prepared(tmp_path), job_of(hub, tmp_path), workers=1, advance=id)
    assert {line.split(".")[2] for line in lines} == {"layers"}
    assert len(lines) == 60  # with scales; q, k and v are three tensors in either layout


def test_a_run_that_began_without_heads_is_continued_without_them_alone(hub, tmp_path):
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job_of(hub, tmp_path, mtp=False).run(workers=1, advance=stop)
    with pytest.raises(ValueError, match="an interrupted run of other weights or settings"):
        run(job_of(hub, tmp_path))
    job = run(job_of(hub, tmp_path, mtp=False))
    assert load_weights(tmp_path, job.config).mtp == ()


@pytest.mark.parametrize(("num_layers", "heads"), [(None, 3), (2, 3), (1, 0)])
def test_heads_belong_to_the_whole_model(hub, tmp_path, num_layers, heads):
    job = job_of(hub, tmp_path, num_layers=num_layers)
    assert job.prepared.mtp_heads == heads
    assert ("model.mtp.*" in job.names.left_out) == (heads == 0)


def test_a_prepared_folder_that_lost_a_tensor_of_a_head_is_refused(hub, tmp_path):
    job = run(job_of(hub, tmp_path))
    index = json.loads((tmp_path / PREPARED_INDEX).read_text())
    del index["weight_map"]["model.mtp.layers.2.hnorm.weight"]
    (tmp_path / PREPARED_INDEX).write_text(json.dumps(index))
    message = rf"^{tmp_path}: holds 2 complete MTP heads, its metadata has 3$"
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path, job.config)
