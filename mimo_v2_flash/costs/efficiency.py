"""Published efficiencies: the share of its roofline bound that a decode step reached on Trainium2.

Source: steps that others have measured, of this model or a sibling on 64 ranks at batch 32, beside
this project's bound for the same sizes; docs/trainium.md has every row. With weights as the hub
stores them, multiplied by what neuronx-cc makes of them: 7 % (NxDI's port, 146 tokens/s, prompts
included) to 25 % (MiMo-V2.5, 58 ms between tokens). In bfloat16: 14 % (vllm-neuron #40, 147 ms) to
57 % (NxDI's port, 34.7 ms on the device, one program).
"""

from typing import NamedTuple

from mimo_v2_flash.quantization import HUB_FORMAT

__all__ = ["Efficiency", "published_efficiency"]


class Efficiency(NamedTuple):
    """The least and the most share of its bound that steps have reached, and which steps."""

    least: float
    most: float
    row: str


STORED = Efficiency(0.07, 0.25, f"{HUB_FORMAT} weights by the compiler")
WIDE = Efficiency(0.14, 0.57, "bfloat16 weights in one program by the compiler")


def published_efficiency(weight_dtype: str) -> Efficiency:
    """Return the published range for weights of a dtype; that of bfloat16 for wider ones."""
    return STORED if weight_dtype == HUB_FORMAT else WIDE
