"""Quantization while loading: the bits of whole weights, in shares, in any tasks, cached."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest

from mimo_v2_flash import load_model, load_weights
from mimo_v2_flash.checkpoint.isq_table import IsqRequest, IsqRow
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert import plan as conversion_plan
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.isq_load import (
    estimate_seconds,
    load_cached,
    load_isq,
    load_quantized,
    no_report,
)
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.execution.pytree import tree_leaves
from mimo_v2_flash.parallel import ALONE, ThreadGroup
from mimo_v2_flash.parallel_config import UNSHARDED, ParallelConfig, all_shard_specs
from mimo_v2_flash.quantization import QuantizedTensor, get_format
from mimo_v2_flash.quantization.isq_types import ISQ_TYPES
from mimo_v2_flash.quantization.topology import parse_topology
from tests.support.shipped import FOLDER

CONFIG = MiMoConfig.from_pretrained(FOLDER)
REQUEST = IsqRequest.of("8")


def leaves(weights) -> dict:
    leaf = tree_leaves(weights, leaf=QuantizedTensor)
    return {path: weight for path, weight in leaf.items() if hasattr(weight, "shape")}


def assert_same(actual, expected) -> None:
    """Assert that weights have the same bits, in the same formats."""
    actual, expected = leaves(actual), leaves(expected)
    assert actual.keys() == expected.keys()
    for path, weight in actual.items():
        other = expected[path]
        assert type(weight) is type(other), path
        fields = [t.field for t in weight.tensors] if isinstance(weight, QuantizedTensor) else [""]
        for field in fields:
            pair = (getattr(w, field) if field else w for w in (weight, other))
            np.testing.assert_array_equal(*pair, err_msg=path)


@pytest.fixture(scope="module")
def stored():
    return load_weights(FOLDER, CONFIG)


@pytest.fixture(scope="module")
def quantized():
    return load_quantized(FOLDER, CONFIG, REQUEST)


def test_a_weight_has_the_bits_of_the_whole_weight(stored, quantized):
    before, form, count = leaves(stored), get_format("q8_0"), 0
    for path, weight in leaves(quantized).items():
        if isinstance(weight, form):
            whole = before[path]
            whole = whole.dequantize() if isinstance(whole, QuantizedTensor) else whole
            np.testing.assert_array_equal(weight.data, form.quantize(whole).data, err_msg=path)
            count += 1
        else:
            np.testing.assert_array_equal(weight, before[path], err_msg=path)
            assert weight.dtype == np.float32  # norms, routers, biases and sinks
    assert count == 293


@pytest.mark.parametrize("isq", ISQ_TYPES)
def test_files_of_every_type_are_read(isq, tmp_path):
    request = IsqRequest.of(isq)
    memory = load_quantized(FOLDER, CONFIG, request)
    files = load_cached(FOLDER, CONFIG, request, tmp_path, group=ALONE)
    assert_same(files, memory)
    assert files.layers[1].attention.w_o_DI.format == isq  # rows of 1,024


@pytest.mark.parametrize("isq", ["8", "fp8"])
def test_tasks_of_any_size_have_the_same_bits(isq, quantized, monkeypatch):
    request = IsqRequest.of(isq)
    expected = quantized if isq == "8" else load_quantized(FOLDER, CONFIG, request)
    monkeypatch.setattr(conversion_plan, "TASK_BYTES", 40000)
    assert_same(load_quantized(FOLDER, CONFIG, request), expected)


@pytest.mark.parametrize("share", all_shard_specs(2, 2) + all_shard_specs(4, 1)[1:2], ids=str)
def test_a_share_has_the_bits_of_the_wholes_slice(share, quantized):
    actual = load_quantized(FOLDER, CONFIG, REQUEST, share=share)
    assert actual.shard_spec == share
    assert_same(actual, shard_weights(quantized, CONFIG, share))


def test_a_share_reads_its_own_experts_alone():
    sizes, done = [], []

    @contextmanager
    def report(job):
        sizes.append(job.bytes_to_read)
        yield done.append

    load_quantized(FOLDER, CONFIG, REQUEST, report=report)
    assert sum(done) == sizes[0]
    load_quantized(FOLDER, CONFIG, REQUEST, share=all_shard_specs(4, 1)[1], report=report)
    expert = 3 * 128 * (128 + 4 / 128)  # FP8 with scales
    assert sum(done) - sizes[0] == sizes[1] == sizes[0] - 5 * 12 * expert


def test_ranks_generate_what_one_does(quantized):
    prompt = [list(range(5, 25))]
    plan, group = ParallelConfig(2, 2), ThreadGroup(2)
    expected = load_model(FOLDER, isq=8).forward(prompt)[0]

    def on_rank(rank):
        return load_model(FOLDER, isq="Q8_0", group=group, parallel=plan).forward(prompt)[0]

    for logits_TV in group.run(on_rank):
        allowed = 1e-4 * np.ptp(expected)
        np.testing.assert_allclose(logits_TV, expected, rtol=0, atol=allowed)


def test_a_cache_is_written_once_and_then_mapped(quantized, tmp_path):
    jobs = []

    @contextmanager
    def report(job):
        jobs.append(job)
        yield lambda _: None

    def load(request, report):
        return load_cached(FOLDER, CONFIG, request, tmp_path, group=ALONE, report=report)

    first = load(REQUEST, report)
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("mimo-tiny-")
    assert len(jobs) == 1
    second = load(REQUEST, report)
    assert len(jobs) == 1
    for weights in (first, second):
        assert_same(weights, quantized)
        assert weights.layers[1].attention.w_q_OD.data.base is not None  # of a mapped file
    load(IsqRequest.of("8", parse_topology("0-6: {isq: }")), report)
    assert len(list(tmp_path.iterdir())) == 2


def test_ranks_share_a_cache(tmp_path, quantized):
    plan, group = ParallelConfig(2, 1, 2), ThreadGroup(2)

    def on_rank(_):
        options = {"isq_cache": tmp_path, "group": group, "parallel": plan}
        return load_model(FOLDER, isq=8, **options).weights

    for rank, weights in enumerate(group.run(on_rank)):
        expected = shard_weights(quantized, CONFIG, plan.shard_spec(rank))
        assert_same(weights.layers, expected.layers)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_odd_in_a_topology_is_a_warning():
    request = IsqRequest.of(
        None, parse_topology("0-4: {isq: 8}\n4-8: {isq: 8}\n/nothing/: {isq: 8}")
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_quantized(FOLDER, CONFIG, request)
    assert [str(warning.message) for warning in caught] == [
        "topology: 4-8: the model has 6 layers, 0 to 5",
        "topology: /nothing/ matches no weight that can be quantized",
    ]


def test_a_shard_is_refused(tmp_path):
    source, experts = FolderSource(FOLDER), tuple(range(16))
    sizes = {"expert_parallel": 2, "tensor_parallel": 1}
    job = plan_conversion_job(
        source, CONFIG, tmp_path, Encoding("fp8", "cpu"), experts, num_layers=2, **sizes
    )
    job.run(workers=1, advance=lambda _: None)
    (shard, *_) = sorted(tmp_path.glob("rank-*"))
    with pytest.raises(ValueError, match="holds a shard; isq reads a whole checkpoint"):
        load_quantized(shard, CONFIG.truncated(2), REQUEST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isq": "Q9K"}, "isq is 'Q9K', allowed is Q8_0"),
        ({"isq": "8", "backend": "xla"}, "isq is Q8_0, allowed with a backend that compiles is "),
        ({"isq_cache": "x"}, "isq_cache is for weights that isq or topology quantizes"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_model(FOLDER, **options)


def test_nothing_to_quantize_is_a_mapped_checkpoint(stored):
    weights = load_isq(
        FOLDER, CONFIG, IsqRequest(), UNSHARDED, cache=None, report=no_report, group=ALONE
    )
    assert_same(weights, stored)
    with no_report(None) as advance:
        assert advance(1) is None


def test_the_time_is_that_of_what_is_quantized():
    row = IsqRow("w", (1 << 12, 1 << 12), "q8_0", "BF16", 1, "")
    assert 0 < estimate_seconds([row]) < 1e5
    assert estimate_seconds([row._replace(form="")]) == 0
