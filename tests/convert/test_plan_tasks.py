"""Tests of conversion tasks: they read and write every byte once, and equal whole tensors."""

from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.convert import plan as conversion_tasks
from mimo_v2_flash.convert.encoding import STORED, TARGETS, Encoding
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.fp8_grid import block_height
from mimo_v2_flash.quantization.fp8_projections import SCALE, keys_and_values
from mimo_v2_flash.quantization.stored_layout import Heads, Projections
from tests.support.disk import Disk, Made, made
from tests.support.drawn import seeds
from tests.support.quantised import attention, split_fused, stored

QKV = ("q_proj.weight", "k_proj.weight", "v_proj.weight")

encodings = st.builds(Encoding, st.sampled_from(list(STORED)), st.sampled_from(TARGETS))
sizes = st.sampled_from([1, 100, 4096, 20_000, 1 << 22])  # of TASK_BYTES
heights = st.sampled_from([64, 128])
WIDE = {"F32": "F32", "BF16": "BF16", "F16": "F32"}  # what each is written as
plain_dtypes = st.sampled_from(list(WIDE))
shapes = st.tuples(st.integers(1, 400), st.sampled_from([1, 127, 128, 200]))


def assert_means(result: Made, encoding: Encoding, expected: dict[str, BlockScaled]) -> None:
    """Assert that FP8 weights became what `encoding` makes of each as a whole."""
    alone = Encoding(encoding.dtype, encoding.target)
    for name, weight in expected.items():
        array, *scale = alone.encode(name, weight)
        np.testing.assert_array_equal(result.arrays[name], array)
        if scale:
            np.testing.assert_array_equal(result.arrays[name + SCALE], scale[0])
    written = len(expected) * (2 if encoding.dtype == "fp8" else 1)
    assert len(result.arrays) == written
    assert result.rounded == alone.rounded


@given(shapes, plain_dtypes, encodings, sizes, seeds)
def test_a_matrix_is_what_it_was_in_the_dtype_asked_for(shape, dtype, encoding, size, seed):
    disk, matrix = Disk(), np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[dtype])
    with patch.object(conversion_tasks, "TASK_BYTES", size):
        plan = conversion_tasks.plain("o_proj.weight", [disk.add(matrix, dtype)], encoding)
    array = made(disk, plan, encoding).arrays["o_proj.weight"]
    assert array.dtype == DTYPES[STORED[encoding.dtype] or WIDE[dtype]]
    np.testing.assert_array_equal(array, matrix.astype(np.float32).astype(array.dtype))


def test_ties_of_bfloat16_go_to_the_even_one():
    disk, encoding = Disk(), Encoding("bfloat16", "cpu")
    tie = np.array([[1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8]], np.float32)
    plan = conversion_tasks.plain("w", [disk.add(tie, "F32")], encoding)
    array = made(disk, plan, encoding).arrays["w"]
    assert array.astype(np.float32).tolist() == [[1, 1 + 2.0**-6, -1]]


@given(st.integers(1, 5000), plain_dtypes, encodings, sizes, seeds)
def test_a_vector_keeps_its_values_and_its_dtype_if_it_is_one_of_ours(
    length, dtype, encoding, size, seed
):
    disk, vector = Disk(), np.random.default_rng(seed).standard_normal(length).astype(DTYPES[dtype])
    with patch.object(conversion_tasks, "TASK_BYTES", size):
        plan = conversion_tasks.plain("norm.weight", [disk.add(vector, dtype)], encoding)
    array = made(disk, plan, encoding).arrays["norm.weight"]
    assert array.dtype == DTYPES[WIDE[dtype]]
    np.testing.assert_array_equal(array, vector.astype(np.float32))


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("stored_as", WIDE)
def test_a_router_is_written_in_float32_and_never_rounded(dtype, stored_as):
    disk, encoding = Disk(), Encoding(dtype, "cpu")
    router = np.random.default_rng(0).standard_normal((5, 7)).astype(DTYPES[stored_as])
    name = "model.layers.1.mlp.gate.weight"
    plan = conversion_tasks.plain(name, [disk.add(router, stored_as)], encoding)
    array = made(disk, plan, encoding).arrays[name]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, router.astype(np.float32))


@given(shapes, heights, encodings, sizes, seeds)
def test_a_plain_grid_is_converted_as_a_whole_would_be(shape, height, encoding, size, seed):
    generator, disk = np.random.default_rng(seed), Disk()
    code = generator.integers(0, 0x7F, shape, np.uint8)
    scale = generator.random((-(-shape[0] // height), -(-shape[1] // 128)), np.float32) + 0.1
    with patch.object(conversion_tasks, "TASK_BYTES", size):
        plan = disk.row_plan("w.weight", (code, scale), encoding)
    height = block_height((code.shape, scale.shape))  # 128 where both fit
    expected = BlockScaled(code, scale, height)
    assert_means(made(disk, plan, encoding), encoding, {"w.weight": expected})


@given(st.integers(2, 4), st.integers(1, 4), st.integers(2, 3), encodings, sizes, seeds)
def test_crossing_scales_are_converted_as_a_whole_would_be(keys, Q, C, encoding, size, seed):
    heads, disk = Heads(2 * keys, keys, 64 * Q, 64 * C), Disk()
    (_, k, v), _ = attention(heads, ranks=keys, hidden=130, seed=seed)
    assume(not block_height(*((w.code_OI.shape, w.scale_YX.shape) for w in (k, v))))
    infos = disk.coded("k.weight", stored(k)) | disk.coded("v.weight", stored(v))
    with patch.object(conversion_tasks, "TASK_BYTES", size):
        plan = disk.joint_plan(
            Projections("q.weight", "k.weight", "v.weight", "qkv.weight", heads, keys),
            infos,
            encoding,
        )
    result = made(disk, plan, encoding)
    assert [task.key for task in plan.tasks] == ["k.weight"]
    both = keys_and_values("layer", stored(k), stored(v), heads)
    assert_means(result, encoding, dict(zip(("k.weight", "v.weight"), both, strict=True)))
    if encoding.target == "cpu":
        for name, truth in (("k.weight", k.truth_OI), ("v.weight", v.truth_OI)):
            expected = truth.astype(DTYPES[STORED[encoding.dtype] or "F32"])
            np.testing.assert_array_equal(result.value(name), expected)


@settings(max_examples=40)
@given(st.sampled_from([2, 4, 8]), st.integers(1, 3), st.integers(1, 2), encodings, sizes, seeds)
def test_fused_attention_is_converted_as_a_whole_would_be(ranks, H, K, encoding, size, seed):
    heads, disk = Heads(H * ranks, K * ranks, 192, 128), Disk()
    apart, whole = attention(heads, ranks=ranks, hidden=30, seed=seed)
    infos = disk.coded("qkv.weight", stored(whole))
    with patch.object(conversion_tasks, "TASK_BYTES", size):
        plan = disk.joint_plan(Projections(*QKV, "qkv.weight", heads, ranks), infos, encoding)
    result = made(disk, plan, encoding)
    split = split_fused("qkv.weight", stored(whole), heads, ranks)
    assert_means(result, encoding, dict(zip(QKV, split, strict=True)))
    if encoding.target == "cpu":
        for name, part in zip(QKV, apart, strict=True):
            expected = part.truth_OI.astype(DTYPES[STORED[encoding.dtype] or "F32"])
            np.testing.assert_array_equal(result.value(name), expected)


@pytest.mark.parametrize("size", [1, 20_000, 70_000])
def test_a_task_is_small_or_one_row_of_blocks(size):
    heads, disk, encoding = Heads(8, 4, 192, 128), Disk(), Encoding("fp8", "cpu")
    projections = Projections(*QKV, "w.weight", heads, 4)
    (q, _, _), whole = attention(heads, ranks=4, hidden=130, seed=0)
    wide = np.zeros((40, 5000), ml_dtypes.bfloat16)
    with patch.object(conversion_tasks, "TASK_BYTES", size):
        plans = [
            (128 * 130, disk.row_plan("q.weight", stored(q), encoding)),
            (
                128 * 130,
                disk.joint_plan(projections, disk.coded("w.weight", stored(whole)), encoding),
            ),
            (5000 * 2, conversion_tasks.plain("o", [disk.add(wide, "BF16")], encoding)),
        ]
    for least, plan in plans:
        read = [task.sources[0].end - task.sources[0].begin for task in plan.tasks]
        assert max(size, least) / 2 < max(read) <= max(size, least)


def test_another_grid_is_refused_by_file_and_name():
    disk, encoding = Disk(), Encoding("fp8", "cpu")
    projections = Projections(*QKV, "w.weight", Heads(8, 4, 192, 128), 4)
    weight = np.zeros((200, 3), np.uint8), np.ones((3, 1), np.float32)
    with pytest.raises(
        ValueError, match=r"^x\.safetensors: w\.weight: \(200, 3\) has scales \(3, 1\)"
    ):
        disk.row_plan("w.weight", weight, encoding)
    with pytest.raises(
        ValueError, match=r"^x\.safetensors: w\.weight: \(200, 3\) with scales \(3, 1\)"
    ):
        disk.joint_plan(projections, disk.coded("w.weight", weight), encoding)
