"""Float64 oracles, one per kernel, as plain as possible: for the tests and the self-check.

An oracle has its kernel's name and arguments. It loops over sequences, tokens and heads, and is
written from the formulas of the papers, never from the kernel: where both agree, both are right.
"""
