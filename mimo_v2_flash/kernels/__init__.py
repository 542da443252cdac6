"""Kernels: pure functions from arrays to arrays, independent of device and parallelism.

A tensor's name ends in its axes: `x_BTD`. A capital is the whole axis, a small letter this
rank's shard of it (`w_gate_eFD`: the local experts), 1 an axis kept for broadcasting. A name
without such an ending is not a tensor. `axes.checked` checks every kernel's arguments.

    B  sequences                       D  model width               E  experts
    T  tokens of a sequence in a step  H  query heads               A  experts per token
    N  tokens in a step, B x T         K  key and value heads       P  ranks of a group
    S  cached tokens, slots            G  query heads per K         M  messages to each rank
    Z  rows of a flat cache, B x S + 1 Q  width of a query or key   J  pairs of token and rank
    L  positions in the rope table     C  width of a value          O  outputs of a matrix
    R  pairs of rotated channels       F  feed-forward width        I  inputs of a matrix
    V  vocabulary                      Y  blocks of O               X  blocks of I

Weights are `[out, in]`, as checkpoints store them, so that files are mapped without a copy.
"""
