"""The main model for training: packed segments in bfloat16, with transformers' parameter names.

Its state dict is that of transformers' `MiMoV2FlashForCausalLM`, which is its oracle. Parameters
are float32; products are of the model's compute type.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import Segments, attend_full, attend_sliding
from .experts import MoE
from .shape import FULL, SLIDING

__all__ = ["Attention", "DenseMLP", "RMSNorm", "Trunk", "compute_dtype", "rotary_tables"]

Rotary = tuple[Tensor, Tensor]


def compute_dtype() -> torch.dtype:
    """Return bfloat16 if the processor multiplies it, else float32."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


class Linear(nn.Linear):
    """A product without bias, of the type of its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        return functional.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square norm; of float32, for the products of type `dtype`."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self._epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised `x`."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self._epsilon)


class Attention(nn.Module):
    """Attention of a full or sliding layer."""

    def __init__(self, config: Any, layer_type: str) -> None:
        super().__init__()
        D, H, Q, C = (
            config.hidden_size,
            config.num_attention_heads,
            config.head_dim,
            config.v_head_dim,
        )
        KV = config.num_key_value_heads * (1 if layer_type == FULL else 2)
        self._widths = (Q, Q, C)
        self._value_scale, self.layer_type = config.attention_value_scale, layer_type
        self.q_proj, self.k_proj, self.v_proj = (Linear(D, n) for n in (H * Q, KV * Q, KV * C))
        self.o_proj = Linear(H * C, D)
        self.sinks = nn.Parameter(torch.zeros(H)) if layer_type == SLIDING else None

    def forward(self, x_ND: Tensor, rotary: Rotary, segments: Segments) -> Tensor:
        """Return the attention's output, [N, D]."""
        q, k, v = (
            functional.linear(x_ND, (each.weight * scale).to(x_ND.dtype)).unflatten(-1, (-1, width))
            for each, scale, width in self._projections()
        )
        q, k, v = rotate(q, rotary), rotate(k, rotary), v.transpose(0, 1).contiguous()
        if self.sinks is None:
            output = attend_full(q, k, v, segments)
        else:
            output = attend_sliding(q, k, v, self.sinks, segments)
        return self.o_proj(output.transpose(0, 1).flatten(1))

    def _projections(self) -> Iterator[tuple[Linear, float, int]]:
        """Yield projections, the scales of their weights, and the widths of their heads."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        scales = (self._widths[0] ** -0.5, 1.0, self._value_scale)
        return zip(projections, scales, self._widths, strict=True)


class DenseMLP(nn.Module):
    """SwiGLU of a dense layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj, self.down_proj = Linear(D, F), Linear(D, F), Linear(F, D)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return the output for `x_ND`."""
        return self.down_proj(functional.silu(self.gate_proj(x_ND)) * self.up_proj(x_ND))


class Layer(nn.Module):
    """A decoder layer; its residual stream is float32."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        D, epsilon = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, config.layer_types[index])
        self.mlp = (MoE if config.mlp_layer_types[index] == "sparse" else DenseMLP)(config)
        self.input_layernorm, self.post_attention_layernorm = (RMSNorm(D, epsilon) for _ in "12")

    def forward(self, x: Tensor, rotary: Rotary, segments: Segments, dtype: torch.dtype) -> Tensor:
        """Return the residual stream after the layer."""
        x = x + self.self_attn(self.input_layernorm(x).to(dtype), rotary, segments)
        return x + self.mlp(self.post_attention_layernorm(x).to(dtype))


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(Layer(config, index) for index in layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Trunk(nn.Module):
    """The main model.

    Parameters
    ----------
    config
        transformers' config.
    dtype
        The compute type; float32 for comparisons.
    """

    def __init__(self, config: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self._initialise(config.initializer_range)

    def _initialise(self, deviation: float) -> None:
        for weight in (each for each in self.parameters() if each.ndim > 1):
            nn.init.normal_(weight, std=deviation)
        nn.init.normal_(self.model.embed_tokens.weight)  # outweighs the layers' outputs at first

    def forward(self, token_N: Tensor, segments: Segments) -> Tensor:
        """Return the hidden states before the final norm, [N, D], float32."""
        x = self.model.embed_tokens(token_N)
        tables = {
            kind: rotary_tables(self.config, kind, segments.position_N, self.dtype)
            for kind in set(self.config.layer_types)
        }
        for layer in self.model.layers:
            x = layer(x, tables[layer.self_attn.layer_type], segments, self.dtype)
        return x

    def normed(self, hidden_ND: Tensor) -> Tensor:
        """Return what the LM head reads, of the compute type."""
        return self.model.norm(hidden_ND).to(self.dtype)

    def routers(self) -> Iterator[Any]:
        """Yield the routers, in the order of the layers."""
        return (layer.mlp.gate for layer in self.model.layers if hasattr(layer.mlp, "gate"))


def rotary_tables(config: Any, kind: str, position_N: Tensor, dtype: torch.dtype) -> Rotary:
    """Return cosines and sines, [N, 1, half of the rotated channels]."""
    parameters = config.rope_parameters[kind]
    width = int(config.head_dim * parameters["partial_rotary_factor"])
    exponent = torch.arange(0, width, 2, dtype=torch.float64) / width
    angle = position_N[:, None, None].double() * parameters["rope_theta"] ** -exponent
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x_NHQ: Tensor, rotary: Rotary) -> Tensor:
    """Return heads whose first channels are rotated, [H, N, Q]."""
    return Rotation.apply(x_NHQ.transpose(0, 1), *(table[:, 0] for table in rotary))


class Rotation(torch.autograd.Function):
    """A rotated copy; its gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x_HNQ: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Return the copy, contiguous."""
        ctx.save_for_backward(cosine, sine)
        return turned(x_HNQ, cosine, sine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        cosine, sine = ctx.saved_tensors
        return turned(gradient, cosine, -sine), None, None


def turned(x_HNQ: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return a copy of heads whose first channels are rotated."""
    output, half = x_HNQ.clone(memory_format=torch.contiguous_format), cosine.shape[-1]
    first, second = output[..., :half], output[..., half : 2 * half]
    before = first.clone()
    first.mul_(cosine).addcmul_(second, sine, value=-1)
    second.mul_(cosine).addcmul_(before, sine)
    return output
