"""Mutants of storage formats: nibbles, scales of groups, minima, powers of two, refusals."""

from functools import partial

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["FORMAT_MUTANTS"]

_cpu, _plain = partial(mutant_in, "cpu"), partial(mutant_in, "quantization")

FORMAT_MUTANTS = (
    _plain(
        "nibbles of a byte swapped",
        "scaled_codes",
        "code & np.uint8(0x0F), code >> np.uint8(4)",
        "code >> np.uint8(4), code & np.uint8(0x0F)",
        "mxfp4",
    ),
    _plain(
        "a minimum ignored",
        "q4_k",
        " - scale_N2G[:, 1, :, None]",
        "",
    ),
    _plain(
        "scales of neighbouring groups",
        "q6_k",
        "block_NB[:, 192:208].view(np.int8)",
        "np.roll(block_NB[:, 192:208].view(np.int8), 1, axis=1)",
    ),
    _plain(
        "E8M0 off by one",
        "mxfp4",
        "scale.astype(np.int32) - BIAS",
        "scale.astype(np.int32) - BIAS - 1",
    ),
    _plain(
        "scales that float16 cannot hold",
        "ggml_blocks",
        "if not part._has_finite_scales():",
        "if False:",
        "q8_0",
    ),
    _plain(
        "columns of a shard within a block",
        "ggml_blocks",
        "if start % cls.block or stop % cls.block:",
        "if start % cls.block:",
    ),
    Mutant(
        "halves rounded to even where ggml rounds them away from zero",
        "mimo_v2_flash/quantization/q8_0.py",
        "exact_NC - floor_NC >= 0.5",
        "exact_NC - floor_NC > 0.5",
        ("tests/cpu/test_q8_0_encoder.py",),
    ),
    _cpu(
        "scales of the group before in a panel",
        "block_loops",
        "place = scale + row * scale_pitch + b * scale_size",
        "place = scale + row * scale_pitch + max(b - 1, 0) * scale_size",
        "int8",
    ),
    _cpu(
        "nibbles of neighbouring groups swapped",
        "q4_k",
        "yield values(words, group % 2 * 4)",
        "yield values(words, (1 - group % 2) * 4)",
    ),
)
