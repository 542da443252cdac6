"""Traced programs on XLA compute what NumPy does: every kind of layer, 100 tokens of a model."""

from collections import Counter

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, example_folder, load_weights
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.execution.hlo_lint import lint_program
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher
from mimo_v2_flash.kv_cache import HybridCache, new_cache
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.device_layout import to_device_layout
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES
from mimo_v2_flash.layers.feed_forward import RankIds
from mimo_v2_flash.parallel import SoloGroup
from mimo_v2_flash.quantization.fp8 import quantize
from tests.support.agreement import assert_agrees
from tests.support.batches import metadata_of
from tests.support.rows import ragged
from tests.support.tiny import KINDS, Tiny, random_tokens, running, tiny

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax")
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.execution.xla import XlaBackend  # noqa: E402

MODEL = tiny()
FP8 = Tiny(None, MODEL.config, random_weights(MODEL.config, seed=0))
STEPS = [((0, 0), (9, 6), 9), ((9, 6), (3, 9), 9), ((12, 15), (1, 1), 1), ((13, 16), (0, 1), 1)]
LENGTH, KV_LENGTH = 40, 16
MOST_INSTRUCTIONS = 1200  # of a layer with 7 experts in FP8


def product(x_NI, w_OI):
    return ops.matmul(x_NI, w_OI)


def positions(starts, counts, length: int) -> np.ndarray:
    rows = [[*range(start, start + count)] for start, count in zip(starts, counts, strict=True)]
    return np.array([row + [-1] * (length - len(row)) for row in rows], np.int32)


class Layer:
    """One layer of a model in static mode, with its cache."""

    def __init__(self, model: Tiny, index: int, dtype, backend=None) -> None:
        self.spec = spec = model.config.layers[index]
        self.weights = to_device_layout(model.weights).layers[index]
        self.call = DecoderLayer.build(spec, SoloGroup(), SoloGroup(), EXECUTION_MODES["static"])
        self.hybrid = new_cache((spec,), batch_size=2, max_length=LENGTH, dtype=dtype)
        self.cache = self.hybrid.layers[0]
        if backend:
            self.call = backend.compile(self.call, donate="x_ND")
            self.weights, self.cache = backend.to_device((self.weights, self.cache))

    def __call__(self, x_ND, starts, counts, length):
        """Return the hidden states after the layer, of rows padded to `length`."""
        metadata = metadata_of(
            self.spec.attention, starts, counts, self.hybrid, mode="static", max_step=2 * length
        )
        kv_length = min(KV_LENGTH, metadata.slots)
        runs = tuple(run._replace(kv_length=kv_length) for run in metadata.runs)
        assert metadata.runs[0].tokens == length
        rank_ids = RankIds(np.zeros(1, np.int32), np.zeros(1, np.int32))
        metadata = metadata._replace(runs=runs)
        args = x_ND, metadata, rank_ids, self.cache, self.weights
        return self.call(*args, dispatcher=AllGatherDispatcher())


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("index", range(4), ids=[f"{a}, {n}" for a, n in KINDS])
@pytest.mark.parametrize("model", [MODEL, FP8], ids=["plain", "FP8"])
def test_every_kind_of_layer_is_numpys_and_so_is_its_cache(model, index, dtype):
    backend, generator = XlaBackend(), np.random.default_rng(index)
    layer, program = Layer(model, index, dtype), Layer(model, index, dtype, backend)
    for starts, counts, length in STEPS:
        x_ND = generator.standard_normal((2 * length, MODEL.config.hidden_size)).astype(dtype)
        expected_ND, y_ND = (run(x_ND, starts, counts, length) for run in (layer, program))
        real_N = positions(starts, counts, length).ravel() >= 0
        assert_agrees(np.asarray(y_ND)[real_N], expected_ND[real_N])
        for part, expected in zip(program.cache[:2], layer.cache[:2], strict=True):
            assert_agrees(np.asarray(part)[:-1], expected[:-1])  # the last row is trash
        np.testing.assert_array_equal(np.asarray(program.cache[2]), layer.cache[2])
    assert len(backend.programs) == 2
    for traced in backend.programs:
        assert lint_program(traced.module, most_instructions=MOST_INSTRUCTIONS) == []
        written = {"x_ND", "cache.k_ZKQ", "cache.v_ZKC", "cache.position_Z"}
        assert set(traced.in_place.values()) == written


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("height", [64, 128])
@pytest.mark.parametrize("products", [1, 2000, 1 << 21], ids=["1 column", "2 columns", "all"])
def test_every_block_of_an_fp8_weight_has_its_own_scale(dtype, height, products, monkeypatch):
    from mimo_v2_flash.quantization import traced_fp8

    monkeypatch.setattr(traced_fp8, "MAX_PARTIAL_ELEMENTS", products)
    generator = np.random.default_rng(0)
    w_OI = generator.standard_normal((200, 700)) * np.exp(generator.uniform(-3, 3, (200, 700)))
    stored = quantize(w_OI.astype(np.float32), block_height=height)
    weight = stored.to_device_range("w")[0].to_device_layout()
    assert len(np.unique(weight.scale)) == weight.scale.size
    x_NI = generator.standard_normal((5, 700)).astype(dtype)
    y_NO = XlaBackend().compile(product)(x_NI, weight)
    assert_agrees(np.asarray(y_NO), ops.matmul(x_NI, weight))


def test_100_greedy_tokens_of_ragged_prompts_are_those_of_numpy():
    prompts = [random_tokens(MODEL, 37).tolist(), random_tokens(MODEL, 5, seed=3).tolist()]
    options = {"max_new_tokens": 100, "eos_token_id": []}
    expected = running(MODEL).generate(prompts, **options)
    backend = XlaBackend()
    assert running(MODEL, backend=backend, max_step=16).generate(prompts, **options) == expected
    lengths = Counter(shape_of(traced, "token_N") for traced in backend.programs)
    kinds = len(set(MODEL.config.layers))
    assert {shape for shape in lengths if shape} == {(16,), (2,)}
    layers = [shape_of(traced, "cache.k_ZKQ") for traced in backend.programs]
    assert len([shape for shape in layers if shape]) == 2 * kinds
    for traced in backend.programs:
        assert lint_program(traced.module, most_instructions=MOST_INSTRUCTIONS) == []


def test_100_greedy_tokens_of_the_trained_example_are_those_of_numpy():
    config = MiMoConfig.from_pretrained(example_folder())
    weights = load_weights(example_folder(), config)
    example = Tiny(None, config, weights)
    prompts = [random_tokens(example, 150).tolist(), random_tokens(example, 40, seed=1).tolist()]
    options = {"max_new_tokens": 100, "eos_token_id": []}
    expected = running(example).generate(prompts, **options)
    ours = running(example, backend=XlaBackend(), max_step=128)
    assert ours.generate(prompts, **options) == expected


def shape_of(traced, path: str) -> tuple[int, ...] | None:
    """Return the shape of a program's input, None if it has no input of that path."""
    if path not in traced.inputs:
        return None
    shape = traced.module.host_program_shape.parameters[traced.inputs.index(path)]
    return tuple(shape.dimensions)


def test_any_chunking_of_a_ragged_batch_gives_numpys_logits():
    rows = [random_tokens(MODEL, 11), random_tokens(MODEL, 30, seed=1)]
    ours, theirs = running(MODEL, backend=XlaBackend(), max_step=8), running(MODEL)
    caches: list[HybridCache] = [model.new_cache(2, 300) for model in (ours, theirs)]
    for chunks in ([rows[0][:3], rows[1][:20]], [rows[0][3:4], rows[1][20:21]]):
        starts = [int(length) for length in caches[0].length_B]
        step = ragged(chunks, starts)
        logits, expected = (
            model.step(*step, cache, logits_at=[[0], [0]])
            for model, cache in zip((ours, theirs), caches, strict=True)
        )
        assert_agrees(logits, expected, scale=10 * np.ptp(expected))


def test_a_view_takes_its_rows_as_data_in_one_program_for_any_rows():
    backend = XlaBackend()
    ours, theirs = running(MODEL, backend=backend, max_step=8), running(MODEL)
    caches = [model.new_cache(4, 300) for model in (ours, theirs)]
    token_BT = random_tokens(MODEL, 4, 6)
    for start, stop in ((1, 3), (0, 2), (2, 4), (1, 3)):
        rows = slice(start, stop)
        starts = [int(length) for length in caches[0].length_B[rows]]
        step = ragged([token_BT[row, :3] for row in range(start, stop)], starts)
        logits, expected = (
            model.step(*step, cache.view(start, stop))
            for model, cache in zip((ours, theirs), caches, strict=True)
        )
        assert_agrees(logits, expected, scale=10 * np.ptp(expected))
        if caches[0].length_B.sum() == 6:  # after the first step
            programs = len(backend.programs)
    assert len(backend.programs) == programs  # other rows are other data
    for mine, its in zip(caches[0].layers, caches[1].layers, strict=True):
        np.testing.assert_array_equal(np.asarray(mine.position_Z), its.position_Z)


def test_updated_buffers_must_be_on_the_device():
    layer = Layer(MODEL, 0, np.float32)
    layer.call = XlaBackend().compile(layer.call)
    x_ND = np.zeros((2, MODEL.config.hidden_size), np.float32)
    with pytest.raises(
        TypeError, match=r"cache\.k_ZKQ, .*: updated in place, but not on the device"
    ):
        layer(x_ND, (0, 0), (1, 1), 1)


def test_arrays_are_copied_to_the_device_once():
    backend, array = XlaBackend(), np.arange(6, dtype=np.float32)
    on_device = backend.to_device((array, 7))
    assert backend.to_device(on_device)[0] is on_device[0]
    assert (on_device[0].shape, on_device[0].dtype, on_device[0].nbytes) == ((6,), np.float32, 24)
    array[:] = 0
    np.testing.assert_array_equal(np.asarray(on_device[0]), np.arange(6))
