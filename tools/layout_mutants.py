"""Mutants of layouts of the family: fused rows, FP4 codes, routers, and the check of bytes."""

from tools.kernel_mutants import Mutant

__all__ = ["LAYOUT_MUTANTS"]

PACKAGE = "mimo_v2_flash"
FAMILY = "tests/test_family_layouts.py"
PROJECTIONS = "tests/checkpoint/test_projections.py"
GRID_CHECK = "tests/convert/test_grid_check.py"
ORDER = f"{PACKAGE}/checkpoint/projections.py"
LOAD = f"{PACKAGE}/checkpoint/load.py"
MXFP4 = f"{PACKAGE}/quantization/mxfp4.py"

LAYOUT_MUTANTS = (
    Mutant(
        "fused rows are of as many ranks as the layer itself has KV heads",
        ORDER,
        "request._replace(ranks=_fused_ranks(config, tensors, where))",
        "request._replace(ranks=request.heads.keys)",
        (PROJECTIONS, FAMILY),
    ),
    Mutant(
        "the word of the config on the order of fused rows is not heard",
        ORDER,
        "if config.fused_qkv_weight_order:",
        "if config.fused_qkv_weight_order == ():",
        (PROJECTIONS,),
    ),
    Mutant(
        "the first layer decides the order, whether it can tell or not",
        ORDER,
        "if sum(map(bool, fits)) == 1:",
        "if sum(map(bool, fits)) >= 1:",
        (PROJECTIONS,),
    ),
    Mutant(
        "rows without scales are in the published order without a word",
        ORDER,
        "    if has_scales:\n",
        "    if has_scales or fused:\n",
        (PROJECTIONS,),
    ),
    Mutant(
        "fused rows have the scales of another rank",
        f"{PACKAGE}/quantization/fp8_projections.py",
        "StoredRows(name + SCALE, rank * scale_rows + first, blocks)",
        "StoredRows(name + SCALE, (rank + 1) % ranks * scale_rows + first, blocks)",
        (FAMILY, "tests/quantization/test_fp8_fused.py"),
    ),
    Mutant(
        "fused rows without scales are taken from the top of each rank",
        f"{PACKAGE}/quantization/stored_layout.py",
        "tuple(range(start + begin, start + end) for start in starts)",
        "tuple(range(start, start + end - begin) for start in starts)",
        (FAMILY, PROJECTIONS),
    ),
    Mutant(
        "a task takes rows from the top of each part",
        f"{PACKAGE}/convert/plan.py",
        "            yield _rows(part, begin, end - begin)\n        first += part.shape[0]\n",
        "            yield _rows(part, 0, end - begin)\n        first += part.shape[0]\n",
        (FAMILY, "tests/convert/test_plan_tasks.py"),
    ),
    Mutant(
        "the two codes of a byte change places",
        f"{PACKAGE}/quantization/scaled_codes.py",
        "nibbles[..., 0], nibbles[..., 1] = ",
        "nibbles[..., 1], nibbles[..., 0] = ",
        (FAMILY, "tests/quantization/test_mxfp4.py"),
    ),
    Mutant(
        "scales of bytes are powers from 126 on",
        MXFP4,
        "BIAS, NAN = 127, 255",
        "BIAS, NAN = 126, 255",
        (FAMILY, "tests/quantization/test_mxfp4.py"),
    ),
    Mutant(
        "a mapped weight's scales may be NaN",
        MXFP4,
        "        MXFP4(self.code, scale_OG).check_values(where)\n",
        "",
        ("tests/quantization/test_mxfp4.py", FAMILY),
    ),
    Mutant(
        "a router is rounded once more",
        LOAD,
        "return MoEWeights(router[ids], bias[ids],",
        "return MoEWeights(router[ids].astype('float16').astype('float32'), bias[ids],",
        (FAMILY, "tests/checkpoint/test_reader.py"),
    ),
    Mutant(
        "a selection bias is rounded to bfloat16",
        LOAD,
        "return MoEWeights(router[ids], bias[ids],",
        "return MoEWeights(router[ids], bias[ids].astype('bfloat16').astype('float32'),",
        (FAMILY, "tests/checkpoint/test_reader.py"),
    ),
    Mutant(
        "MiMo-V2.6's own routers are news",
        f"{PACKAGE}/checkpoint/check.py",
        'else {"F32", "BF16"}',
        'else {"F32"}',
        (FAMILY,),
    ),
    Mutant(
        "rows that were moved under their scales pass",
        f"{PACKAGE}/convert/grid_check.py",
        "        if not shown.is_full:\n",
        "        if shown.blocks == -1:\n",
        (GRID_CHECK,),
    ),
    Mutant(
        "another quantizer's weights are judged",
        f"{PACKAGE}/convert/grid_check.py",
        "for layout in layouts if certain.is_full else ():",
        "for layout in layouts:",
        (GRID_CHECK,),
    ),
    Mutant(
        "k and v that cross are judged each by itself",
        f"{PACKAGE}/quantization/fp8_projections.py",
        "        return list(map(np.concatenate, zip(*by_head, strict=True)))",
        "        return [code for head in by_head for code in head]",
        (GRID_CHECK,),
    ),
)
