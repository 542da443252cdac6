"""Storages of published checkpoints that are not read, by the tensors that tell them.

Source: AutoAWQ, GPTQModel, compressed-tensors, NVIDIA's modelopt, mlx-lm: the names that they save.
"""

from collections.abc import Iterable

__all__ = ["foreign_storage"]

STORAGES = {
    ".weight_scale_2": "NVFP4 of modelopt, codes of 4 bits whose scales of 16 columns are FP8",
    ".weight_global_scale": "NVFP4 of compressed-tensors, codes of 4 bits with FP8 scales",
    ".weight_shape": "compressed-tensors pack-quantized, integers of few bits in 32 (AWQ, GPTQ)",
    ".weight_zero_point": "compressed-tensors with zero points",
    ".qweight": "AWQ or GPTQ, integers of few bits in 32 with zero points",
    ".qzeros": "AWQ or GPTQ, integers of few bits in 32 with zero points",
    ".g_idx": "GPTQ, integers of few bits in 32 in an order of columns",
    ".input_scale": "static FP8, which quantizes activations by stored scales",
    ".scales": "MLX, groups of few bits with scales and biases",
    ".biases": "MLX, groups of few bits with scales and biases",
}
"""Ends of names of tensors -> what has them."""


def foreign_storage(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first tensor of a storage that is not read, and what it is of; None if none is.

    Examples
    --------
    >>> foreign_storage(["model.layers.0.mlp.up_proj.qzeros"])[1].partition(",")[0]
    'AWQ or GPTQ'
    """
    ends = ((name, f".{name.rpartition('.')[2]}") for name in names)
    return next(((name, STORAGES[end]) for name, end in ends if end in STORAGES), None)
