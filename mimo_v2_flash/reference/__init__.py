"""Float64 reference implementations of the kernels, for the tests and the self-check.

Each has the name and arguments of its kernel. It loops over sequences, tokens and heads, and
follows the formulas of the papers, never the kernel's code: the two are independent.
"""
