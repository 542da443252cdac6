"""Tests of Encoding: values are written exactly, or rounded as documented and counted."""

import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.convert.encoding import STORED, TARGETS, Encoding
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.reference import fp8 as oracle
from tests.support.drawn import seeds

CODES = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8)
VALUES = np.array([oracle.decode(code) for code in CODES.tolist()])
ROUNDING = [sign | code for sign in (0, 0x80) for code in range(1, 0x10, 2)]
LARGEST = np.finfo(np.float32).max
shapes = st.tuples(st.sampled_from([1, 64, 130]), st.sampled_from([1, 128, 130]))


def one_row(codes, scale: float = 1.0) -> BlockScaled:
    code_OI = np.array(codes, np.uint8)[None]
    grid = (1, -(-code_OI.shape[1] // 128))
    return BlockScaled(code_OI, np.full(grid, scale, np.float32))


def random_weight(seed: int, shape: tuple[int, int], height: int = 64) -> BlockScaled:
    generator = np.random.default_rng(seed)
    grid = -(-shape[0] // height), -(-shape[1] // 128)
    scale = np.exp(generator.uniform(-9, 9, grid)).astype(np.float32)
    return BlockScaled(generator.choice(CODES, shape), scale, height)


# FP8


def test_the_cpu_gets_codes_and_scales_as_they_were():
    weight, encoding = random_weight(0, (130, 130)), Encoding("fp8", "cpu")
    code, scale = encoding.encode("w", weight)
    assert code is weight.code
    assert scale is weight.scale
    assert encoding.rounded == 0


@pytest.mark.parametrize("exponent", [-126, -20, 0, 3, 100])
def test_all_codes_but_16_keep_their_value_when_halved(exponent):
    scale = 2.0**exponent
    encoding = Encoding("fp8", "trainium2")
    code, doubled = encoding.encode("w", one_row(CODES, scale))
    value = np.array([oracle.decode(c) for c in code[0].tolist()]) * doubled[0, 0].astype(
        np.float64
    )
    error = np.abs(value - VALUES * scale)
    assert CODES[error > 0].tolist() == ROUNDING
    assert (error[error > 0] == 2.0**-10 * doubled[0, 0]).all()
    assert encoding.rounded == len(ROUNDING)


def test_the_16_round_to_even_and_keep_their_sign():
    code, _ = Encoding("fp8", "trainium2").encode("w", one_row(ROUNDING[:8]))
    assert code.tolist() == [[0, 2, 2, 4, 4, 6, 6, 8]]
    code, _ = Encoding("fp8", "trainium2").encode("w", one_row(ROUNDING[8:]))
    assert (code & 0x7F).tolist() == [[0, 2, 2, 4, 4, 6, 6, 8]]
    assert (code >= 0x80).all()


def test_nothing_is_above_the_240_that_trainium2_holds():
    code, _ = Encoding("fp8", "trainium2").encode("w", one_row(CODES))
    assert max(abs(oracle.decode(c)) for c in code[0].tolist()) == 224


@pytest.mark.parametrize("scale", [1e-45, 2.0**-126, 0.1, 1.0, np.pi, LARGEST / 2])
def test_scales_are_doubled_exactly(scale):
    _, (doubled,) = Encoding("fp8", "trainium2").encode("w", one_row([0x38], scale))
    assert doubled.dtype == np.float32
    assert doubled.astype(np.float64) == 2 * np.float64(np.float32(scale))


def test_a_scale_that_cannot_be_doubled_is_refused_for_trainium2_alone():
    weight = one_row([0x01], np.nextafter(LARGEST / 2, np.float32(np.inf)))
    with pytest.raises(ValueError, match=r"^w: a scale of 1\.70\d+e\+38 is too large"):
        Encoding("fp8", "trainium2").encode("w", weight)
    Encoding("fp8", "cpu").encode("w", weight)


def test_every_rounded_value_is_counted():
    encoding = Encoding("fp8", "trainium2")
    codes = [0x01, 0x02, 0x01, 0x8F, 0x38, 0x11]  # three of them
    encoding.encode("w", one_row(codes))
    encoding.encode("w", one_row(codes * 50))
    assert encoding.rounded == 3 * 51


def test_threads_lose_no_count():
    encoding, weight = Encoding("fp8", "trainium2"), one_row(ROUNDING * 4)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: encoding.encode("w", weight), range(4000)))
    finally:
        sys.setswitchinterval(interval)
    assert encoding.rounded == 4000 * 64


# bfloat16 and float32


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("height", [64, 128])
@given(seeds, shapes)
def test_float32_is_the_dequantised_value(target, height, seed, shape):
    weight = random_weight(seed, shape, height)
    (value,) = Encoding("float32", target).encode("w", weight)
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, weight.dequantize())


@pytest.mark.parametrize("target", TARGETS)
@given(seeds, shapes)
def test_bfloat16_is_its_nearest(target, seed, shape):
    weight = random_weight(seed, shape)
    (value,) = Encoding("bfloat16", target).encode("w", weight)
    assert value.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(value.view(np.uint16), nearest_bfloat16(weight.dequantize()))


def nearest_bfloat16(value: np.ndarray) -> np.ndarray:
    """Return the bits of the nearest bfloat16, of two the even one."""
    bits = value.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype(
        np.uint16
    )


def test_the_dtype_in_the_file_is_that_of_what_is_written():
    names = {"F8_E4M3": ("F8_E4M3", "BF16", "F32"), "BF16": ("BF16", "BF16", "F32")}
    names |= {"F32": ("F32", "BF16", "F32"), "F16": ("F32", "BF16", "F32")}
    for stored, expected in names.items():
        assert tuple(Encoding(dtype, "cpu").stored(stored) for dtype in STORED) == expected


# Refused


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_nan_is_refused_by_name(dtype, target, code):
    with pytest.raises(ValueError, match=r"^layers\.3: holds NaN$"):
        Encoding(dtype, target).encode("layers.3", one_row([0, code, 0x38]))


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scale", [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_scale_that_is_no_positive_number_is_refused_by_name(dtype, target, scale):
    weight = one_row([0x38] * 130)
    weight.scale[0, 1] = scale
    with pytest.raises(ValueError, match=r"^layers\.3_scale_inv holds NaN, infinity, zero or"):
        Encoding(dtype, target).encode("layers.3", weight)


@pytest.mark.parametrize(("dtype", "target"), [("int8", "cpu"), ("fp8", "gpu"), ("", "")])
def test_what_is_not_offered_is_refused_with_what_is(dtype, target):
    with pytest.raises(ValueError, match="fp8, bfloat16, float32 and of cpu, trainium2") as refusal:
        Encoding(dtype, target)
    assert f"dtype {dtype!r} and target {target!r}" in str(refusal.value)
