"""Tiny checkpoints in the layouts of MiMo-V2.5, V2.6 and of files converted from them.

    checkpoint = write_family(tiny(RECIPE).oracle, folder, V2_6)
    oracle = oracle_of(tiny(RECIPE).oracle, checkpoint)

A weight's scales lie in another file than the weight, as on the hub. Nothing of the package is
used: it is the package's oracle.

Source: the hub's headers of XiaomiMiMo/MiMo-V2.5 and -V2.6-Flash, as published by vLLM (#57508,
#57784), llama.cpp (`conversion/mimo.py`) and SGLang (#40448); OCP MX v1.0 for MXFP4.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from mimo_v2_flash.config import MiMoConfig
from tests.support.fp8_blocks import MATRICES, Arrays, quantise_attention, quantise_blocks
from tests.support.hub_checkpoint import INDEX, HubCheckpoint, random_mtp_weights
from tests.support.tiny import FULL, KINDS, SLIDING, Recipe

MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
GROUP, BIAS = 32, 127  # of MXFP4
TOWERS = ("visual.merger.ln_q.weight", "audio_encoder.norm.weight", "speech_embeddings.0.weight")
FOLDERS = ("audio_tokenizer/model.safetensors", "dflash/dflash_draft_model.safetensors")
ROUTER, BIAS_NAME = ".mlp.gate.weight", "e_score_correction_bias"


@dataclass(frozen=True)
class Layout:
    """How a release stores its weights.

    Attributes
    ----------
    order
        Of q, k and v: "split", "interleaved" (rank after rank) or "plain".
    qkv
        The dtype of them: "fp8", "bfloat16", "float16" or "float32".
    experts
        "fp8" or "mxfp4"; or "int8" or "channel", FP8, with a scale for each row.
    router
        The dtype of routers' weights; their biases are float32 in every release.
    config
        Further keys of config.json.
    """

    order: str = "interleaved"
    qkv: str = "fp8"
    experts: str = "fp8"
    router: str = "float32"
    config: tuple[tuple[str, Any], ...] = ()


V2_5 = Layout()
V2_6 = Layout(experts="mxfp4", router="bfloat16", config=(("moe_router_dtype", "bfloat16"),))
# MiMo's full layers: one KV head of 192 + 128 on each of 4 ranks; widths of whole groups of 32.
RECIPE = Recipe(
    layers=(KINDS[0], (SLIDING, "sparse"), (SLIDING, "dense"), (FULL, "sparse")),
    num_kv_heads=4,
    queries_per_kv_head=2,
    head_dim=192,
    v_head_dim=128,
    rotary_dim=64,
    hidden=160,
    dense_width=256,
    expert_width=96,
    experts=6,
    experts_per_token=2,
)


def write_family(
    model: Any, folder: Path, layout: Layout, *, mtp_weights: Arrays | None = None
) -> HubCheckpoint:
    """Write transformers' `model` into `folder` in a layout, with MTP heads and towers beside it.

    Full layers' KV heads are the ranks. Without `mtp_weights` three MTP heads are random.
    """
    with TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        weights = load_file(Path(saved) / "model.safetensors")
        config = MiMoConfig.from_pretrained(saved)
    weights |= random_mtp_weights(config, 0) if mtp_weights is None else mtp_weights
    stored, truth = store(weights, layout, config.num_key_value_heads)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, stored, config_of(config, layout))
    return HubCheckpoint(folder, truth)


def store(weights: Arrays, layout: Layout, ranks: int) -> tuple[Arrays, Arrays]:
    """Return the tensors of a checkpoint, and what they are in float32, q, k and v apart."""
    stored: Arrays = {}
    truth: Arrays = {}
    for name, w in weights.items():
        if name.endswith(MATRICES):
            kind = layout.experts if ".experts." in name else "fp8"
            tensors, truth[name] = WRITERS[kind](name, w)
            stored |= tensors
        elif not name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            stored[name] = w.astype(plain_dtype(name, layout))
            truth[name] = stored[name].astype(np.float32)
    ends = "q_proj.weight"
    for prefix in [name.removesuffix(ends) for name in weights if name.endswith(ends)]:
        names = [f"{prefix}{letter}_proj.weight" for letter in "qkv"]
        tensors, values = attention(names, [weights[name] for name in names], layout, ranks)
        stored |= tensors
        truth |= dict(zip(names, values, strict=True))
    return stored, truth


def attention(
    names: list[str], weights: list[np.ndarray], layout: Layout, ranks: int
) -> tuple[Arrays, list[np.ndarray]]:
    """Return the tensors of q, k and v, and what they are in float32."""
    fused = names[0].replace("q_proj", "qkv_proj")
    ranks = 1 if layout.order == "plain" else ranks
    if layout.qkv != "fp8":
        rounded = [w.astype(layout.qkv) for w in weights]
        parts = zip(*(np.split(w, ranks) for w in rounded), strict=True)
        whole = np.concatenate([np.concatenate(rank) for rank in parts])
        return {fused: whole}, [w.astype(np.float32) for w in rounded]
    apart, together = quantise_attention(*weights, ranks)
    tensors: Arrays = {}
    stored = zip(names, apart, strict=True) if layout.order == "split" else [(fused, together)]
    for name, weight in stored:
        tensors |= {name: weight.code_OI, f"{name}_scale_inv": weight.scale_YX}
    return tensors, [part.truth_OI for part in apart]


def fp8(name: str, w_OI: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """Return the tensors of a weight in blocks of 128 x 128, and its numbers."""
    weight = quantise_blocks(w_OI)
    return {name: weight.code_OI, f"{name}_scale_inv": weight.scale_YX}, weight.truth_OI


def mxfp4(name: str, w_OI: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """Return the tensors of a weight of which each 32 columns share a power of two, in MXFP4."""
    outputs, inputs = w_OI.shape
    groups = w_OI.reshape(outputs, -1, GROUP)
    exponent = np.floor(np.log2(np.abs(groups).max(axis=2))).astype(int) - 2
    power = np.exp2(exponent.astype(np.float64))[..., None]
    index = np.abs(np.abs(groups / power)[..., None] - MAGNITUDES).argmin(axis=-1)
    code = (index + 8 * (groups < 0)).astype(np.uint8).reshape(outputs, inputs)
    value = (np.sign(groups) * MAGNITUDES[index] * power).astype(np.float32)
    tensors = {
        name: code[:, 0::2] + 16 * code[:, 1::2],
        name.replace(".weight", ".weight_scale"): (exponent + BIAS).astype(np.uint8),
    }
    return tensors, value.reshape(outputs, inputs)


def by_row(name: str, w_OI: np.ndarray, largest: float, dtype: Any) -> tuple[Arrays, np.ndarray]:
    """Return the tensors of a weight with a scale for each row, and its numbers."""
    scale = np.abs(w_OI).max(axis=1, keepdims=True) / np.float32(largest)
    unit = w_OI / scale
    code = (np.rint(unit) if dtype == np.int8 else unit).astype(dtype)
    tensors = {name: code, name.replace(".weight", ".weight_scale"): scale}
    return tensors, code.astype(np.float32) * scale


WRITERS = {
    "fp8": fp8,
    "mxfp4": mxfp4,
    "int8": partial(by_row, largest=127, dtype=np.int8),
    "channel": partial(by_row, largest=448, dtype=ml_dtypes.float8_e4m3fn),
}


def plain_dtype(name: str, layout: Layout) -> Any:
    """Return the dtype of a tensor without scales."""
    if name.endswith(ROUTER):
        return layout.router
    return np.float32 if name.endswith(BIAS_NAME) else ml_dtypes.bfloat16


def config_of(config: MiMoConfig, layout: Layout) -> dict[str, Any]:
    """Return the content of config.json."""
    content = config.to_dict() | {
        "architectures": ["MiMoV2ForCausalLM"],
        "model_type": "mimo_v2",
        "attention_projection_layout": "split" if layout.order == "split" else "fused_qkv",
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
    }
    if layout.experts in {"fp8", "mxfp4"}:
        content["quantization_config"]["store_dtype"] = layout.experts
    else:
        content["quantization_config"] = {"quant_method": "compressed-tensors", "ignore": []}
    if layout.experts == "mxfp4":
        content["quantization_config"]["mxfp4_block_size"] = GROUP
    return content | dict(layout.config)


def write(folder: Path, stored: Arrays, config: dict[str, Any]) -> None:
    """Write tensors, an index, a config, towers, and folders that are no part of the model."""
    stored = stored | {name: np.ones((2, 3), ml_dtypes.bfloat16) for name in TOWERS}
    files = {name: _file_of(name) for name in stored}
    for file in dict.fromkeys(files.values()):
        tensors = {name: array for name, array in stored.items() if files[name] == file}
        save_file(tensors, folder / file, {"format": "pt"})
    for path in FOLDERS:
        (folder / path).parent.mkdir(exist_ok=True)
        save_file({"fc.weight": np.ones((2, 3), np.float32)}, folder / path)
    index = {"metadata": {"tp_size": 4}, "weight_map": files}
    for name, content in ((INDEX, index), ("config.json", config)):
        (folder / name).write_text(json.dumps(content))


def _file_of(name: str) -> str:
    """Return the file of a tensor: another one for scales than for weights."""
    if name.startswith("model.mtp."):
        return "model_mtp.safetensors"
    return f"model_pp0_ep{'scale' in name:d}_shard0.safetensors"
