"""A checkpoint as the model's records: matrices stay in their files, vectors become float32."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.kernels.softmax import NO_SINK

from . import names
from .checkpoint import open_checkpoint
from .names import Declared
from .records import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
)

__all__ = ["load_weights"]


def load_weights(path: str | PathLike[str], config: MiMoConfig) -> ModelWeights:
    """Return the weights of the checkpoint at `path`, mapped: nothing is read until it is used.

    Parameters
    ----------
    path : str or PathLike
        A folder of safetensors files in the hub's names, with an index or without, as
        transformers' `save_pretrained` writes it; or one such file.
    config : MiMoConfig
        The model; every weight's shape is checked against it.

    Returns
    -------
    ModelWeights
        Matrices [out, in] as stored, float32 or bfloat16; norms, routers, biases and sinks float32.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint at `path`, or a shard is missing.
    ValueError
        If a weight is missing, unexpected or misshapen; the message names it and its file.
    """
    source = Path(path)
    tensors = open_checkpoint(source)
    expected = dict(names.every_weight(config))
    if missing := [name for name in expected if name not in tensors]:
        raise ValueError(f"{source}: {_some(missing)} missing, which the config asks for")
    others = (name for name in tensors if not name.startswith(names.PREDICTOR_PREFIX))
    if unexpected := [name for name in others if name not in expected]:
        raise ValueError(f"{source}: {_some(unexpected)} unexpected under this config")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{tensors.file_of(name)}: {name} is {tensors[name].shape}, "
                f"the config asks for {shape}"
            )
        if tensors[name].dtype == np.uint8:
            raise ValueError(f"{tensors.file_of(name)}: {name} is F8_E4M3 and has no scales")
    return _model(tensors, config)


def _some(found: list[str]) -> str:
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{', '.join(found[:3])}{more}: {len(found)} tensor{'s' * (len(found) > 1)}"


def _model(tensors: Mapping[str, np.ndarray], config: MiMoConfig) -> ModelWeights:
    embedding, final_norm, logits = names.model_ends(config)
    layers = tuple(
        _layer(tensors, f"model.layers.{index}", spec) for index, spec in enumerate(config.layers)
    )
    return ModelWeights(
        tensors[embedding.name], layers, _float32(tensors, final_norm), tensors[logits.name]
    )


def _layer(tensors: Mapping[str, np.ndarray], prefix: str, spec: LayerSpec) -> DecoderWeights:
    attention_norm, feed_forward_norm = names.layer_norms(prefix, spec)
    feed_forward = (
        _mixture(tensors, prefix, spec)
        if spec.experts
        else DenseWeights(*(tensors[weight.name] for weight in names.dense(prefix, spec)))
    )
    return DecoderWeights(
        _float32(tensors, attention_norm),
        _attention(tensors, prefix, spec),
        _float32(tensors, feed_forward_norm),
        feed_forward,
    )


def _attention(tensors: Mapping[str, np.ndarray], prefix: str, spec: LayerSpec) -> AttentionWeights:
    q, k, v, o, *sink = names.attention(prefix, spec.attention, spec.hidden)
    no_sink = np.full(spec.attention.heads, NO_SINK, np.float32)
    return AttentionWeights(
        w_q_OD=tensors[q.name],
        w_k_OD=tensors[k.name],
        w_v_OD=tensors[v.name],
        w_o_DI=tensors[o.name],
        sink_H=_float32(tensors, sink[0]) if sink else no_sink,
    )


def _mixture(tensors: Mapping[str, np.ndarray], prefix: str, spec: LayerSpec) -> MoEWeights:
    router, bias = names.router(prefix, spec)
    experts = [names.expert(prefix, spec, index) for index in range(spec.experts)]
    columns = (tuple(tensors[w.name] for w in column) for column in zip(*experts, strict=True))
    return MoEWeights(_float32(tensors, router), _float32(tensors, bias), ExpertWeights(*columns))


def _float32(tensors: Mapping[str, np.ndarray], weight: Declared) -> np.ndarray:
    return tensors[weight.name].astype(np.float32)
