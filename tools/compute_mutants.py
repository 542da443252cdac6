"""Mutants of compute types: what is rounded before a product, what is not, and how."""

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["COMPUTE_MUTANTS"]

PRODUCTS = ("tests/quantization/test_compute.py",)
ROUNDING = ("tests/cpu/test_rounding.py",)
EXPERTS = ("tests/layers/test_rounded_experts.py",)

COMPUTE_MUTANTS = (
    Mutant(
        "a row alone is not rounded",
        "mimo_v2_flash/cpu/matmul.py",
        "interleave_words(round_rows(x_NI, compute), weight.itemsize)",
        'interleave_words(round_rows(x_NI, compute if rows > 1 else "float32"), weight.itemsize)',
        PRODUCTS,
    ),
    Mutant(
        "rows are rounded by numba alone",
        "mimo_v2_flash/quantization/matmul.py",
        "    x = round_activations(x, compute)\n",
        "",
        PRODUCTS,
    ),
    Mutant(
        "ties are rounded away from zero",
        "mimo_v2_flash/cpu/rounding.py",
        "bits + HALF + ((bits >> np.uint32(16)) & np.uint32(1))",
        "bits + HALF + np.uint32(1)",
        ROUNDING,
    ),
    Mutant(
        "NaN is rounded to a number",
        "mimo_v2_flash/cpu/rounding.py",
        "if bits & MAGNITUDE <= INFINITY else value",
        "if bits == bits else value",
        ROUNDING,
    ),
    Mutant(
        "hidden channels of compiled experts are not rounded",
        "mimo_v2_flash/cpu/expert_step.py",
        "                    if rounds:\n",
        "                    if False:\n",
        EXPERTS,
    ),
    Mutant(
        "tokens of compiled experts are not rounded",
        "mimo_v2_flash/cpu/expert_step.py",
        "round_rows(np.ascontiguousarray(x_ND), compute)",
        "np.ascontiguousarray(x_ND)",
        EXPERTS,
    ),
    mutant_in(
        "layers",
        "the router's activations are rounded",
        "eager_mode",
        'is_router = "w_router_ED" in path',
        "is_router = False",
    ),
    Mutant(
        "ranks of different compute types",
        "mimo_v2_flash/model.py",
        '(self.max_length, self._cache_length), "compute": compute}',
        "(self.max_length, self._cache_length)}",
        ("tests/test_compute_type.py",),
    ),
)
