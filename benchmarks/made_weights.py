"""Random checkpoints of the benchmark's model: FP8 in the hub's layout, and the same in bfloat16.

The model has three layers of MiMo-V2-Flash at their true widths: a dense one with full attention,
and two of experts, sliding and full. Scales have few digits, so that every FP8 weight is a bfloat16
number too, and both checkpoints have equal values. The bfloat16 one has transformers' names and
stacked experts, so that transformers has nothing to convert.
"""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.load import load_weights
from mimo_v2_flash.checkpoint.params import DecoderWeights, MoEWeights
from mimo_v2_flash.checkpoint.random_weights import QUANTILES
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization.fp8 import BLOCK, FP8_MAX, BlockScaled

from .implementations import FLOAT8, NATIVE
from .streamed_files import Tensor, write_folder

__all__ = ["model_config", "write_both", "write_float8"]

BFLOAT16 = ml_dtypes.bfloat16
CODES = (QUANTILES / QUANTILES[-1] * FP8_MAX).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
PORTION = 1 << 24  # random numbers at a time


def model_config(*, quick: bool) -> MiMoConfig:
    """Return the config of MiMo-V2-Flash's layers 0, 1 and 5 with 32 experts; narrow if `quick`."""
    narrow = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "moe_intermediate_size": 256,
        "num_attention_heads": 8,
        "swa_num_attention_heads": 8,
        "num_key_value_heads": 4,
        "swa_num_key_value_heads": 8,
    }
    return MiMoConfig(
        vocab_size=4096,
        eos_token_id=4095,
        num_hidden_layers=3,
        hybrid_layer_pattern=(0, 1, 0),
        moe_layer_freq=(0, 1, 1),
        n_routed_experts=32,
        **(narrow if quick else {}),
    )


def write_both(folder: Path, config: MiMoConfig, *, seed: int = 0) -> None:
    """Write both checkpoints into `folder`: `FLOAT8` and `NATIVE`."""
    ours, theirs = folder / FLOAT8, folder / NATIVE
    write_float8(ours, config, seed=seed)
    write_folder(theirs, list(_native_tensors(ours, config)))
    (theirs / "config.json").write_text(json.dumps(_native_config(config)))


def write_float8(folder: Path, config: MiMoConfig, *, seed: int = 0) -> None:
    """Write the FP8 checkpoint alone."""
    write_folder(folder, list(_hub_tensors(config, np.random.Generator(np.random.SFC64(seed)))))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))


def _hub_tensors(config: MiMoConfig, random: np.random.Generator) -> Iterator[Tensor]:
    ranks = config.num_key_value_heads
    by_rank = {  # K of full layers: scale rows begin anew on each rank that quantised the weight
        f"model.layers.{index}.self_attn.k_proj.weight"
        for index, sliding in enumerate(config.hybrid_layer_pattern)
        if not sliding
    }
    for name, shape in param_specs.all_params(config):
        if not name.endswith("_proj.weight") or name.endswith("o_proj.weight"):
            dtype = "F32" if param_specs.ROUTER in name else "BF16"
            yield Tensor(
                name, dtype, shape, lambda n=name, s=shape, d=dtype: _rounded(random, n, s, d)
            )
            continue
        parts = ranks if name in by_rank else 1
        grid = (parts * -(-shape[0] // parts // BLOCK), -(-shape[1] // BLOCK))
        yield Tensor(name, "F8_E4M3", shape, lambda s=shape: _codes(random, s))
        scale = BlockScaled.tensor_names(name)["scale"]
        yield Tensor(scale, "F32", grid, lambda g=grid: _scales(random, g))


def _codes(random: np.random.Generator, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for start in range(0, prod(shape), PORTION):
        step = np.frombuffer(random.bytes(min(PORTION, prod(shape) - start)), np.uint8)
        yield np.take(CODES, step, mode="clip")


def _scales(random: np.random.Generator, grid: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield scales of 4 binary digits: with the 4 of a code, a product has bfloat16's 8."""
    yield random.integers(8, 16, grid).astype(np.float32) * np.float32(2.0**-17)


def _rounded(
    random: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str
) -> Iterator[np.ndarray]:
    """Yield random bfloat16 values, spread enough that tokens choose different experts."""
    width = 1.0 if "embed" in name else 0.02 if len(shape) == 2 else 0.05
    mean, width = (1.0, 0.0) if "norm" in name else (0.0, width)
    for start in range(0, prod(shape), PORTION):
        count = min(PORTION, prod(shape) - start)
        numbers = random.standard_normal(count, np.float32) * np.float32(width)
        yield (numbers + np.float32(mean)).astype(BFLOAT16).astype(DTYPES[dtype])


def _native_tensors(ours: Path, config: MiMoConfig) -> Iterator[Tensor]:
    """Yield the tensors of the FP8 checkpoint under the names of transformers' modules."""
    weights = load_weights(ours, config)
    outer = (weights.embedding_VD, weights.final_norm_D, weights.w_logits_VD)
    for (name, _), array in zip(param_specs.embedding_norm_head(config), outer, strict=True):
        yield _exact(name, array)
    for index, (spec, layer) in enumerate(zip(config.layers, weights.layers, strict=True)):
        prefix = f"model.layers.{index}"
        specs = [*param_specs.layer_norms(prefix, spec)]
        arrays = [layer.attention_norm_D, layer.feed_forward_norm_D]
        specs += param_specs.attention(prefix, spec.attention, spec.hidden_size)
        arrays += layer.attention[: 5 if spec.attention.has_sink else 4]
        specs += (
            param_specs.router(prefix, spec)
            if spec.num_experts
            else param_specs.dense(prefix, spec)
        )
        arrays += layer.feed_forward[: 2 if spec.num_experts else 3]
        for (name, _), array in zip(specs, arrays, strict=True):
            yield _exact(name.replace("attention_sink_bias", "sinks"), array)
        if spec.num_experts:
            yield from _stacked_experts(prefix, layer)


def _exact(name: str, *arrays: Any, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return a tensor of `arrays`, one after the other, as bfloat16 (a bias: float32), exactly."""
    dtype = "F32" if name.endswith("e_score_correction_bias") else "BF16"

    def parts() -> Iterator[np.ndarray]:
        for array in arrays:
            wide = array.dequantize() if isinstance(array, BlockScaled) else array
            narrow = wide.astype(DTYPES[dtype])
            assert np.array_equal(narrow.astype(np.float32), wide.astype(np.float32)), name
            yield narrow

    return Tensor(name, dtype, shape or arrays[0].shape, parts)


def _stacked_experts(prefix: str, layer: DecoderWeights) -> Iterator[Tensor]:
    assert isinstance(layer.feed_forward, MoEWeights)
    experts, name = layer.feed_forward.experts, f"{prefix}.mlp.experts"
    width, hidden = experts[0].w_gate_FD.shape
    both = [matrix for expert in experts for matrix in (expert.w_gate_FD, expert.w_up_FD)]
    yield _exact(f"{name}.gate_up_proj", *both, shape=(len(experts), 2 * width, hidden))
    down = (expert.w_down_DF for expert in experts)
    yield _exact(f"{name}.down_proj", *down, shape=(len(experts), hidden, width))


def _native_config(config: MiMoConfig) -> dict[str, Any]:
    kinds = ("full_attention", "sliding_attention")
    rotary = {"rope_type": "default", "partial_rotary_factor": config.partial_rotary_factor}
    same = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
        *("num_attention_heads", "num_key_value_heads", "v_head_dim", "sliding_window"),
        *("moe_intermediate_size", "n_routed_experts", "num_experts_per_tok"),
        *("attention_value_scale", "routed_scaling_factor", "max_position_embeddings"),
    )
    return {
        "architectures": ["MiMoV2FlashForCausalLM"],
        "model_type": "mimo_v2_flash",
        **{name: getattr(config, name) for name in same},
        "rms_norm_eps": config.layernorm_epsilon,
        "layer_types": [kinds[sliding] for sliding in config.hybrid_layer_pattern],
        "mlp_layer_types": [("dense", "sparse")[sparse] for sparse in config.moe_layer_freq],
        "rope_parameters": {
            kinds[0]: rotary | {"rope_theta": config.rope_theta},
            kinds[1]: rotary | {"rope_theta": config.swa_rope_theta},
        },
        "dtype": "bfloat16",
    }
