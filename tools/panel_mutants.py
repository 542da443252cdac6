"""Mutants of packed panels: packing, tails of rows and blocks, scales, NaN."""

from functools import partial

from tools.kernel_mutants import mutant_in

__all__ = ["PANEL_MUTANTS"]

_panel = partial(mutant_in, "cpu")

PANEL_MUTANTS = (
    _panel(
        "NaN codes packed as numbers",
        "panel",
        'build.select(is_nan, splat(SUMS, float("nan")), values[0])',
        "values[0]",
    ),
    _panel(
        "codes packed without a look at what they are",
        "panel",
        "return self._are_normal(words) if element_format.decode_normal else BIT(1)",
        "return BIT(1)",
    ),
    _panel(
        "tails of rows not filled up with zeros",
        "panel",
        "            build.store(splat(WORDS, 0), copy, align=WORD)\n",
        "",
    ),
    _panel(
        "rows behind the last packed as they lie in memory",
        "panel",
        'index = build.select(build.icmp_signed("<", INT64(row), last), INT64(row), last)',
        "index = INT64(row)",
    ),
    _panel(
        "blocks not transposed within a panel",
        "panel",
        "lower = [lane + LANES if lane & size else lane + size for lane in range(LANES)]",
        "lower = [lane + LANES if lane & size else lane for lane in range(LANES)]",
    ),
    _panel(
        "scales of the block row before",
        "fp8",
        "if min(o + lane, outputs - 1) >= (row + 1) * height:",
        "if min(o + lane, outputs - 1) > (row + 1) * height:",
    ),
    _panel(
        "inputs packed before forgotten",
        "panel_product",
        "                _copy(y_NO, n, o, sum_RO, 0, 0, rows, columns)\n",
        "                sum_RO[:] = ZERO\n",
    ),
    _panel(
        "the last input of a block left out",
        "panel_product",
        "steps = (min(BLOCK, k_end - k) + per_word - 1) // per_word",
        "steps = (min(BLOCK, k_end - k) - 1) // per_word",
    ),
    _panel(
        "all rows of x multiplied in registers",
        "matmul",
        "if rows > _max_register_rows(compute):",
        "if False:",
    ),
    _panel(
        "inputs of a pair in the other order",
        "bfloat16_panels",
        "even, odd = (build",
        "odd, even = (build",
    ),
    _panel(
        "activations cut off to bfloat16",
        "bfloat16_panels",
        "np.float32(nearest_bfloat16(x_NI[n, i]))",
        "np.float32(x_NI[n, i])",
    ),
    _panel(
        "NaN whose upper half is infinity",
        "bfloat16_panels",
        "bits | QUIET if np.isnan(x_NI[n, i]) else bits",
        "bits",
    ),
    _panel(
        "a bfloat16 unit without its instruction",
        "bfloat16_unit",
        'return {"+avx512f", "+avx512bf16"} <= set(features)',
        'return "+avx512f" in features',
    ),
    _panel(
        "the vector unit where a matrix unit makes it slow",
        "bfloat16_unit",
        "(has_vector_unit() and not has_matrix_unit())",
        "has_vector_unit()",
    ),
)
