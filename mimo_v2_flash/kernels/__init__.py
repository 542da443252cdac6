"""Pure functions from arrays to arrays: what is computed, and nothing about where.

A tensor's name ends in its axes: `x_BTD`. A capital is the whole axis, a small letter this
rank's share of it (`w_gate_eFD`: its own experts), 1 an axis kept for broadcasting. A name
without such an ending is not a tensor. `axes.checked` holds every kernel to its names.

    B  sequences                       D  model width               E  experts
    T  tokens of a sequence in a step  H  query heads               A  experts per token
    N  tokens in a step, B x T         K  key and value heads       P  ranks of a group
    S  cached tokens, slots            G  query heads per K         M  message slots per rank
    Z  rows of a flat cache, B x S + 1 Q  width of a query or key   J  pairs of token and rank
    L  positions in the rope table     C  width of a value          O  outputs of a matrix
    R  pairs of rotated channels       F  feed-forward width        I  inputs of a matrix
    V  vocabulary                      Y  blocks of O               X  blocks of I

Weights are `[out, in]`, as checkpoints store them, so that files are mapped without a copy.
"""
