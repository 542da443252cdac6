"""Panels of pairs of bfloat16 in the processor's matrix unit, AMX.

Its eight registers hold 16 rows of 64 bytes each. Four are sums, of 16 rows of x by the outputs of
a panel; the others hold x and the panel, whose rows of pairs are what its instruction takes. Only
processes that `bfloat16_unit.is_permitted` allows may import this module.

Source: Intel, Architecture Instruction Set Extensions, TDPBF16PS. docs/decisions/0042.
"""

from typing import Any

from llvmlite import ir
from numba import intp, types, uint32
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .bfloat16_panels import BFLOAT16_PANEL
from .code_cache import compile_now
from .loops import in_order, input_type
from .panel import PANEL
from .panel_product import PANEL_TYPES, panel_loop
from .tile import LANES, SUMS, WORD, fused

__all__ = ["ROWS", "matrix_panels"]

ROWS, VECTORS = 16, PANEL // LANES  # ROWS: of a register, and words of a line of it
INT8, INT64 = (ir.IntType(bits) for bits in (8, 64))
POINTER = INT8.as_pointer()


def _call(build: Any, name: str, *args: Any) -> None:
    """Call one of the unit's instructions; registers are constants."""
    signature = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
    build.call(cgutils.get_or_insert_function(build.module, signature, f"llvm.x86.{name}"), args)


@intrinsic
def _configure(_):
    """Give all registers of the calling thread 16 rows of 64 bytes."""
    palette = [1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8]

    def emit(context, build, _, __):
        data = cgutils.alloca_once_value(build, ir.Constant(ir.ArrayType(INT8, 64), palette))
        _call(build, "ldtilecfg", build.bitcast(data, POINTER))
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def _release(_):
    """Empty all registers of the calling thread, so that the system need not save them."""

    def emit(context, build, _, __):
        _call(build, "tilerelease")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def matrix_tile(_, x_NW, n, k, steps, panel_W, p, sum_RO, r):  # noqa: ARG001
    """Do what `panel.panel_tile` does, for 16 rows: all are in memory, and 16 words of each step.

    Beyond the inputs both x and the panel have zeros.
    """
    intp = types.intp
    signature = types.void(x_NW, intp, intp, intp, panel_W, intp, sum_RO, intp)
    return signature, _emit_tile


def _emit_tile(context: Any, build: Any, signature: Any, args: Any) -> Any:
    """Emit the unit's sums, their way through memory, and the products with scales."""
    x, panel, sums = (make_array(signature.args[i])(context, build, args[i]) for i in (0, 4, 6))
    n, k, steps, p, r = (args[i] for i in (1, 2, 3, 5, 7))
    registers = [INT8(register) for register in range(8)]
    totals, w_registers, x_register = registers[:4], registers[4:7], registers[7]
    pitch = cgutils.unpack_tuple(build, x.shape)[1]
    first = build.gep(x.data, [build.add(build.mul(n, pitch), k)])
    scale = build.gep(panel.data, [p])
    row_bytes, panel_bytes = build.mul(pitch, INT64(WORD)), INT64(PANEL * WORD)
    for total in totals:
        _call(build, "tilezero", total)
    with cgutils.for_range_slice(build, INT64(0), steps, INT64(ROWS), INT64) as (i, _):
        place = build.bitcast(build.gep(first, [i]), POINTER)
        _call(build, "tileloadd64", x_register, place, row_bytes)
        row = build.gep(scale, [build.mul(build.add(i, INT64(1)), INT64(PANEL))])
        for v, total in enumerate(totals):
            place = build.bitcast(build.gep(row, [INT64(v * LANES)]), POINTER)
            register = w_registers[v % len(w_registers)]
            _call(build, "tileloadd64", register, place, panel_bytes)
            _call(build, "tdpbf16ps", total, x_register, register)
    buffer = cgutils.alloca_once(build, SUMS, INT64(ROWS * VECTORS))
    for v, total in enumerate(totals):
        place = build.bitcast(build.gep(buffer, [INT64(v)]), POINTER)
        _call(build, "tilestored64", total, place, panel_bytes)
    _add_scaled(build, buffer, scale, build.gep(sums.data, [build.mul(r, INT64(PANEL))]))
    return context.get_dummy_value()


def _add_scaled(build: Any, buffer: Any, scale: Any, target: Any) -> None:
    """Add the sums in `buffer`, times the scales of their outputs, to rows of the target."""
    vector = SUMS.as_pointer()
    for v in range(VECTORS):
        place = build.bitcast(build.gep(scale, [INT64(v * LANES)]), vector)
        factor = build.load(place, align=WORD)
        for row in range(ROWS):
            place = build.bitcast(build.gep(target, [INT64(row * PANEL + v * LANES)]), vector)
            total = build.load(build.gep(buffer, [INT64(row * VECTORS + v)]), align=WORD)
            build.store(fused(build, factor, total, build.load(place, align=WORD)), place, WORD)


_loop = panel_loop(BFLOAT16_PANEL, matrix_tile, ROWS)


@in_order
def matrix_panels(pair_NW, pack, address, y_NO, start, end, panel_W, inputs):
    """Do what `bfloat16_panels` does; rows and words of the pairs are multiples of `ROWS`."""
    _configure()
    _loop(pair_NW, pack, address, inputs, y_NO, start, end, panel_W)
    _release()


compile_now(matrix_panels, input_type(uint32), *PANEL_TYPES, intp)
