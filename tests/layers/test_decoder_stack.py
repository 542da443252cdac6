"""The layers of a model as programs: as few as there may be, and the bits of layer by layer."""

from collections import Counter

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.decoder_stack import DecoderStack, StackInputs
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES
from mimo_v2_flash.layers.layer_range import LayerRange
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.parallel import SoloGroup
from mimo_v2_flash.parallel.fake_group import FakeGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.batches import batch_of
from tests.support.tiny import KINDS, Recipe, random_tokens, running, tiny

MODEL = tiny(Recipe(layers=(*KINDS, KINDS[3], KINDS[1]), vocabulary=64, experts=8))
LAYERS = len(MODEL.config.layers)
TOKENS = random_tokens(MODEL, 2, 14)
STEPS = ((0, 9), (9, 13), (13, 14))


class StaticNumpy(NumpyBackend):
    """NumPy in static mode, which counts the calls of functions by name."""

    execution_mode = "static"

    def __init__(self) -> None:
        self.calls = Counter[str]()

    def compile(self, function, *, donate=None):
        """Return `function`, whose calls are counted."""

        def program(*args, **kwargs):
            name = getattr(function, "__name__", type(function).__name__)
            if isinstance(function, LayerRange):
                name = f"{len(function.layers)} layers"
            self.calls[name] += 1
            return function(*args, **kwargs)

        return program


def outputs(**options) -> list[np.ndarray]:
    """Return logits of a prompt, of four tokens and of one, and then all caches."""
    model = running(MODEL, max_step=32, **options)
    cache, logits = model.new_cache(2, 40), []
    for start, end in STEPS:
        position_BT = np.tile(np.arange(start, end), (2, 1))
        logits.append(model.step(TOKENS[:, start:end], position_BT, cache))
    return logits + [np.asarray(part) for layer in cache.layers for part in layer]


def assert_same_bits(actual, expected) -> None:
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("most", [None, 2, 4, LAYERS, 99])
def test_ranges_have_the_bits_of_single_layers(most):
    backend = StaticNumpy()
    actual = outputs(backend=backend, layers_per_program=most)
    assert_same_bits(actual, outputs(backend=StaticNumpy(), layers_per_program=1))
    most = min(most or LAYERS, LAYERS)
    expected = Counter({f"{most} layers": LAYERS // most * len(STEPS)})
    if rest := LAYERS % most:
        expected[f"{rest} layers" if rest > 1 else "DecoderLayer"] = len(STEPS)
    del backend.calls["embed"], backend.calls["LogitsHead"]
    assert backend.calls == expected


def test_a_pass_that_may_overflow_runs_its_blocks():
    """Those of layers with experts: a dense layer is one program."""
    backend, last = StaticNumpy(), [[299]]
    experts = sum(spec.num_experts > 0 for spec in MODEL.config.layers)
    step = random_tokens(MODEL, 1, 300), np.arange(300)[None]
    model, eager = running(MODEL, backend=backend, max_step=512), running(MODEL)
    logits_BnV = model.step(*step, model.new_cache(1, 300), logits_at=last)
    assert backend.calls["AttentionBlock"] == experts
    assert backend.calls["FeedForwardBlock"] >= experts
    assert backend.calls["DecoderLayer"] == LAYERS - experts > 0
    assert not any(name.endswith("layers") for name in backend.calls)
    expected = eager.step(*step, eager.new_cache(1, 300), logits_at=last)
    assert_agrees(logits_BnV, expected, scale=10 * np.ptp(expected))


def test_equal_ranges_are_one_program():
    """Layers 12 to 23, 24 to 35 and 36 to 47 of MiMo are of the same kinds in the same order."""
    compiled, layers = [], MiMoConfig().layers

    class Compiled(StaticNumpy):
        """A backend that keeps what it compiles, and runs nothing."""

        def compile(self, function, *, donate=None):
            """Return `function`, which is kept."""
            compiled.append(function)
            return function

    context = ParallelContext(ParallelConfig(), SoloGroup(), mode=EXECUTION_MODES["static"])
    stack = DecoderStack(layers, Compiled(), context, 12)
    batch = batch_of([0], [1], running(MODEL).new_cache(1, 40))
    kinds = {spec.attention: None for spec in layers}
    calls = list(stack.calls(batch, StackInputs(kinds, (None,) * 48, (None,) * 48)))
    ranges = [function for function in compiled if isinstance(function, LayerRange)]
    assert [function.kinds for function in ranges] == [
        (0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0),
        (0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1),
    ]
    assert [program for program, *_ in calls] == [ranges[0], *[ranges[1]] * 3]


@pytest.mark.parametrize(("rows", "most"), [(1, 24), (8, 24), (9, 12), (16, 12)])
def test_a_program_is_bounded_by_the_tokens_of_all_ranks(rows, most):
    """On 16 data-parallel ranks experts see 16 times the tokens of one."""
    plan = ParallelConfig(64, 4, 16)
    context = ParallelContext(plan, FakeGroup(64), mode=EXECUTION_MODES["static"])
    layers = tuple(map(context.shard_spec.local_layer, MiMoConfig().layers))
    stack = DecoderStack(layers, StaticNumpy(), context)
    cache = running(MODEL).new_cache(rows, 40)
    batch = batch_of([0] * rows, [1] * rows, cache, mode="static")
    kinds = {spec.attention: None for spec in layers}
    calls = list(stack.calls(batch, StackInputs(kinds, (None,) * 48, (None,) * 48)))
    assert len(calls) == 48 // most


def test_numpy_has_no_programs():
    message = "layers_per_program is for a backend that compiles: numpy has no programs"
    with pytest.raises(ValueError, match=message):
        running(MODEL, layers_per_program=2)
    with pytest.raises(ValueError, match="layers_per_program must be at least 1, got 0"):
        running(MODEL, layers_per_program=0, backend=StaticNumpy())


@pytest.mark.nkipy
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_traced_ranges_have_the_bits_of_single_traced_layers(dtype):
    """XLA computes a range; in float32 NumPy's logits are within 1e-4 of their range."""
    pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
    pytest.importorskip("jax")
    from mimo_v2_flash.execution.xla import XlaBackend

    backend, dtypes = XlaBackend(), {"dtype": dtype, "cache_dtype": dtype}
    actual = outputs(backend=backend, layers_per_program=None, **dtypes)
    single = outputs(backend=XlaBackend(), layers_per_program=1, **dtypes)
    assert_same_bits(actual, single)
    assert len(backend.programs) == 3 * len(STEPS)  # embedding, layers and head of each shape
    if dtype == np.float32:
        for logits_BTV, expected_BTV in zip(actual[:3], outputs()[:3], strict=True):
            assert_agrees(logits_BTV, expected_BTV, scale=10 * np.ptp(expected_BTV))
