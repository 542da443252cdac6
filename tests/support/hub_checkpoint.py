"""Tiny checkpoints in the hub's layout: FP8 with scales, shards, an index, three MTP heads.

    hub = write_hub_checkpoint(tiny(RECIPE).oracle, folder)
    oracle = oracle_of(tiny(RECIPE).oracle, hub)

Source: the hub's files of XiaomiMiMo/MiMo-V2-Flash; with `fused`, those of MiMo-V2.5.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from mimo_v2_flash.config import MiMoConfig
from tests.support.fp8_blocks import BLOCK, MATRICES, Arrays, check_geometry, quantize_weights
from tests.support.tiny import FULL, SLIDING, Recipe

INDEX = "model.safetensors.index.json"
NUM_MTP_HEADS = 3
FUSED = {  # of config.json
    "architectures": ["MiMoV2ForCausalLM"],
    "model_type": "mimo_v2",
    "attention_projection_layout": "fused_qkv",
}
# The head widths and 4 KV heads of the real model; every other width ends in a partial block.
RECIPE = Recipe(
    layers=((FULL, "dense"), (SLIDING, "sparse"), (FULL, "sparse")),
    num_kv_heads=4,
    queries_per_kv_head=2,
    head_dim=192,
    v_head_dim=128,
    rotary_dim=64,
    hidden=136,
    dense_width=264,
    expert_width=72,
    experts=5,
    experts_per_token=2,
)


class HubCheckpoint(NamedTuple):
    """A checkpoint and its dequantised weights.

    Attributes
    ----------
    folder
        Folder of config.json, the index and the shards.
    truth
        Every weight in float32, MTP heads included; q, k and v are split.
    """

    folder: Path
    truth: Arrays


def write_hub_checkpoint(
    model: Any,
    folder: Path,
    *,
    ranks: int | None = None,
    fused: bool = False,
    seed: int = 0,
    mtp_weights: Arrays | None = None,
) -> HubCheckpoint:
    """Write transformers' `model` into `folder` in the layout of the hub.

    Parameters
    ----------
    model
        A MiMoV2FlashForCausalLM in float32; head widths must be 192 and 128.
    folder
        Folder to write to, made if it does not exist.
    ranks
        Tensor-parallel ranks that attention was quantised on; None is the KV heads of full layers.
    fused
        Whether attention is one `qkv_proj`, rank after rank.
    seed
        Seed of random MTP heads; transformers has none.
    mtp_weights
        Weights of the MTP heads by the hub's names, float32, instead of random ones.

    Raises
    ------
    ValueError
        As `fp8_blocks.check_geometry`.
    """
    weights, config = _saved(model)
    ranks = ranks or config.num_key_value_heads
    check_geometry(config, ranks)
    weights |= random_mtp_weights(config, seed) if mtp_weights is None else mtp_weights
    stored, truth = quantize_weights(weights, ranks, fused)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, stored, _hub_config(config) | (FUSED if fused else {}))
    return HubCheckpoint(folder, truth)


def oracle_of(model: Any, hub: HubCheckpoint) -> Any:
    """Return transformers' model of `model`'s configuration with the weights of `hub.truth`."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        main = {name: w for name, w in hub.truth.items() if not name.startswith("model.mtp.")}
        save_file(main, Path(folder) / "model.safetensors", {"format": "pt"})
        oracle, loading_info = type(model).from_pretrained(
            folder, config=model.config, dtype="float32", output_loading_info=True
        )
    assert not any(loading_info.values()), loading_info
    return oracle.eval()


def random_mtp_weights(config: MiMoConfig, seed: int) -> Arrays:
    """Return the weights of three MTP heads: a sliding layer's attention and a dense network."""
    generator = np.random.default_rng(seed)
    weights = {}
    for index in range(NUM_MTP_HEADS):
        for name, shape in _mtp_shapes(config):
            value = generator.standard_normal(shape, np.float32)
            if len(shape) == 2:
                value *= np.float32(1.5 / np.sqrt(shape[-1]))
            elif name.endswith("norm.weight"):
                value = 1 + np.float32(0.3) * value
            weights[f"model.mtp.layers.{index}.{name}"] = value
    return weights


def _mtp_shapes(config: MiMoConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    D, F = config.hidden_size, config.intermediate_size
    H, K = config.swa_num_attention_heads, config.swa_num_key_value_heads
    Q, C = config.swa_head_dim, config.swa_v_head_dim
    for norm in ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"):
        yield f"{norm}.weight", (D,)
    yield "eh_proj.weight", (D, 2 * D)
    yield "self_attn.q_proj.weight", (H * Q, D)
    yield "self_attn.k_proj.weight", (K * Q, D)
    yield "self_attn.v_proj.weight", (K * C, D)
    yield "self_attn.o_proj.weight", (D, H * C)
    yield "self_attn.attention_sink_bias", (H,)
    for matrix, shape in zip(MATRICES, ((F, D), (F, D), (D, F)), strict=True):
        yield f"mlp.{matrix}", shape


def _saved(model: Any) -> tuple[Arrays, MiMoConfig]:
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(Path(folder) / "model.safetensors")
        return weights, MiMoConfig.from_pretrained(folder)


def _write(folder: Path, stored: Arrays, config: dict[str, Any]) -> None:
    shards: dict[str, Arrays] = {}
    for name, array in stored.items():
        shards.setdefault(_shard_of(name), {})[name] = array
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard, {"format": "pt"})
    index = {
        "metadata": {"total_size": sum(array.nbytes for array in stored.values())},
        "weight_map": {name: _shard_of(name) for name in sorted(stored)},
    }
    for file, content in ((INDEX, index), ("config.json", config)):
        (folder / file).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _shard_of(name: str) -> str:
    first, second, layer, *_ = (*name.split("."), "")
    if (first, second) != ("model", "layers"):
        ends = {"model.embed_tokens": "model_embedding", "model.mtp": "model_mtp"}
        return f"{ends.get(f'{first}.{second}', 'model_final')}.safetensors"
    if ".experts." not in name:
        return f"model_{layer}.safetensors"
    return f"model_{layer}_linear_fc{2 if '.down_proj.' in name else 1}.safetensors"


def _hub_config(config: MiMoConfig) -> dict[str, Any]:
    layers = (*(f"layers.{index}" for index in range(config.num_hidden_layers)), "decoder")
    return config.to_dict() | {
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "packed_modules_mapping": {},
            "weight_block_size": [BLOCK, BLOCK],
            "ignored_layers": [f"model.{layer}.self_attn.o_proj" for layer in layers],
        },
    }
