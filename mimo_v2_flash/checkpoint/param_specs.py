"""Parameter specs: the checkpoint name and shape of every weight, and how the hub stores it.

Source: the hub's files of XiaomiMiMo/MiMo-V2-Flash; transformers 5.23 `save_pretrained` writes the
same names.
"""

from collections.abc import Container, Iterator, Sequence
from itertools import count, takewhile
from typing import NamedTuple

from mimo_v2_flash.config import AttentionSpec, LayerSpec, MiMoConfig
from mimo_v2_flash.config_presets import SPLIT, HubLayout
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import HUB_FORMAT, QuantizedTensor, get_format
from mimo_v2_flash.quantization.stored_layout import Heads, Projections

__all__ = [
    "EMBEDDING",
    "EXPERTS",
    "FUSED",
    "HEAD",
    "HUB_DTYPE",
    "MTP_PREFIX",
    "MULTIPLIED",
    "OTHER_MODALITIES",
    "ROUTER",
    "ParamSpec",
    "all_params",
    "attention",
    "dense",
    "embedding_norm_head",
    "expert",
    "fused_attention",
    "hub_dtype",
    "hub_format",
    "is_fused",
    "layer_norms",
    "layers",
    "mtp_head",
    "mtp_input",
    "mtp_norms",
    "mtp_prefix",
    "projections",
    "router",
]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MTP_PREFIX = "model.mtp."
OTHER_MODALITIES = ("visual.", "audio_encoder.", "speech_embeddings.")  # MiMo-V2.5's towers
HUB_DTYPE = get_format(HUB_FORMAT).tensors[0].file_dtype  # of most matmul weights on the hub
EXPERTS, ROUTER = ".mlp.experts.", ".mlp.gate."  # in the names of their weights
FUSED = "self_attn.qkv_proj.weight"  # MiMo-V2.5: instead of q, k and v
MULTIPLIED = ("_proj.weight", HEAD)  # ends of the names of matmul weights
PLAIN_MULTIPLIED = (
    ".o_proj.weight",
    ".eh_proj.weight",
    HEAD,
)  # matmul weights that the hub does not store so


class ParamSpec(NamedTuple):
    """A parameter's name in a checkpoint, and its shape: [out, in] for a matrix."""

    name: str
    shape: tuple[int, ...]


def layers(config: MiMoConfig, names: Container[str]) -> Iterator[tuple[str, LayerSpec]]:
    """Yield the prefix and the spec of every decoder layer, then of the MTP heads in `names`."""
    yield from ((f"model.layers.{index}", spec) for index, spec in enumerate(config.layers))
    heads = map(mtp_prefix, count())
    for prefix in takewhile(lambda prefix: f"{prefix}.enorm.weight" in names, heads):
        yield prefix, config.mtp_layer


def embedding_norm_head(
    config: MiMoConfig, shard_spec: ShardSpec = UNSHARDED
) -> tuple[ParamSpec, ParamSpec, ParamSpec]:
    """Return embedding_VD, final_norm_D and w_logits_VD, of which a shard has some rows."""
    V, D = config.vocab_size, config.hidden_size
    return (
        ParamSpec(EMBEDDING, (V, D)),
        ParamSpec("model.norm.weight", (D,)),
        ParamSpec(HEAD, (len(shard_spec.tensor_range(V)), D)),
    )


def layer_norms(prefix: str, spec: LayerSpec) -> tuple[ParamSpec, ParamSpec]:
    """Return attention_norm_D and feed_forward_norm_D of the layer at `prefix`."""
    return (
        ParamSpec(f"{prefix}.input_layernorm.weight", (spec.hidden_size,)),
        ParamSpec(f"{prefix}.post_attention_layernorm.weight", (spec.hidden_size,)),
    )


def attention(prefix: str, spec: AttentionSpec, hidden: int) -> tuple[ParamSpec, ...]:
    """Return w_q, w_k, w_v, w_o and, where the layer has sinks, sink_H.

    Parameters
    ----------
    prefix : str
        Name of the layer's attention in the checkpoint.
    spec : AttentionSpec
        Its numbers.
    hidden : int
        Width of the model.
    """
    H, K, Q, C = spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.v_head_dim
    matrices = (
        ParamSpec(f"{prefix}.self_attn.q_proj.weight", (H * Q, hidden)),
        ParamSpec(f"{prefix}.self_attn.k_proj.weight", (K * Q, hidden)),
        ParamSpec(f"{prefix}.self_attn.v_proj.weight", (K * C, hidden)),
        ParamSpec(f"{prefix}.self_attn.o_proj.weight", (hidden, H * C)),
    )
    sink = ParamSpec(f"{prefix}.self_attn.attention_sink_bias", (H,))
    return (*matrices, sink) if spec.has_sink else matrices


def fused_attention(prefix: str, spec: AttentionSpec, hidden: int) -> tuple[ParamSpec, ...]:
    """Return w_qkv, w_o and, where the layer has sinks, sink_H: MiMo-V2.5's layout.

    Parameters
    ----------
    prefix : str
        Name of the layer's attention in the checkpoint.
    spec : AttentionSpec
        Its numbers.
    hidden : int
        Width of the model.
    """
    q, k, v, *rest = attention(prefix, spec, hidden)
    rows = q.shape[0] + k.shape[0] + v.shape[0]
    return (ParamSpec(f"{prefix}.{FUSED}", (rows, hidden)), *rest)


def projections(prefix: str, config: MiMoConfig, spec: LayerSpec) -> Projections:
    """Return q, k and v of the layer at `prefix`; `config` is the whole model's.

    Parameters
    ----------
    prefix : str
        Name of the layer in the checkpoint.
    config : MiMoConfig
        Numbers of the whole model.
    spec : LayerSpec
        Numbers of the layer.
    """
    a = spec.attention
    q, k, v, *_ = attention(prefix, a, spec.hidden_size)
    heads = Heads(a.num_heads, a.num_kv_heads, a.head_dim, a.v_head_dim)
    fused = f"{prefix}.{FUSED}"
    return Projections(q.name, k.name, v.name, fused, heads, config.num_key_value_heads)


def router(prefix: str, spec: LayerSpec) -> tuple[ParamSpec, ParamSpec]:
    """Return w_router_ED and bias_E of the layer at `prefix`."""
    return (
        ParamSpec(f"{prefix}{ROUTER}weight", (spec.num_experts, spec.hidden_size)),
        ParamSpec(f"{prefix}{ROUTER}e_score_correction_bias", (spec.num_experts,)),
    )


def expert(prefix: str, spec: LayerSpec, index: int) -> tuple[ParamSpec, ParamSpec, ParamSpec]:
    """Return w_gate_FD, w_up_FD and w_down_DF of one expert.

    Parameters
    ----------
    prefix : str
        Name of the layer's experts in the checkpoint.
    spec : LayerSpec
        Numbers of the layer.
    index : int
        Id of the expert.
    """
    return _gated(f"{prefix}.mlp.experts.{index}", spec.intermediate_size, spec.hidden_size)


def dense(prefix: str, spec: LayerSpec) -> tuple[ParamSpec, ParamSpec, ParamSpec]:
    """Return w_gate_FD, w_up_FD and w_down_DF of the dense layer at `prefix`."""
    return _gated(f"{prefix}.mlp", spec.intermediate_size, spec.hidden_size)


def mtp_head(prefix: str, spec: LayerSpec, *, fused: bool = False) -> tuple[ParamSpec, ...]:
    """Return the parameters of the MTP head at `prefix`, which has no embedding or LM head.

    Parameters
    ----------
    prefix : str
        Name of the head in the checkpoint.
    spec : LayerSpec
        Numbers of its layer.
    fused : bool
        Whether q, k and v are one tensor.
    """
    D = spec.hidden_size
    attention_params = fused_attention if fused else attention
    return (
        *mtp_norms(prefix, D),
        mtp_input(prefix, D),
        *attention_params(prefix, spec.attention, D),
        *dense(prefix, spec),
    )


def mtp_norms(prefix: str, hidden: int) -> tuple[ParamSpec, ...]:
    """Return embedding_norm_D, hidden_norm_D, attention_norm_D, feed_forward_norm_D, final_norm_D.

    They are those of the MTP head at `prefix`.
    """
    norms = ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm")
    return tuple(ParamSpec(f"{prefix}.{norm}.weight", (hidden,)) for norm in norms)


def mtp_input(prefix: str, hidden: int) -> ParamSpec:
    """Return w_eh_DI of the MTP head at `prefix`."""
    return ParamSpec(f"{prefix}.eh_proj.weight", (hidden, 2 * hidden))


def mtp_prefix(index: int) -> str:
    """Return the prefix of the names of an MTP head."""
    return f"{MTP_PREFIX}layers.{index}"


def _gated(prefix: str, width: int, hidden: int) -> tuple[ParamSpec, ParamSpec, ParamSpec]:
    return (
        ParamSpec(f"{prefix}.gate_proj.weight", (width, hidden)),
        ParamSpec(f"{prefix}.up_proj.weight", (width, hidden)),
        ParamSpec(f"{prefix}.down_proj.weight", (hidden, width)),
    )


def hub_format(name: str, layout: HubLayout = SPLIT) -> type[QuantizedTensor] | None:
    """Return the format that the hub's files store the weight `name` in; None for a plain array."""
    if not name.endswith(MULTIPLIED) or name.endswith(PLAIN_MULTIPLIED):
        return None
    return get_format((EXPERTS in name and layout.expert_format) or HUB_FORMAT)


def hub_dtype(name: str, layout: HubLayout = SPLIT) -> str:
    """Return the safetensors dtype that the hub's files store the plain array `name` in."""
    if ROUTER not in name:
        return "BF16"
    return layout.router_dtype if name.endswith(".weight") else "F32"


def is_fused(names: Container[str]) -> bool:
    """Return whether a checkpoint of tensors called `names` has MiMo-V2.5's `qkv_proj`."""
    return f"model.layers.0.{FUSED}" in names


def all_params(
    config: MiMoConfig,
    experts: Sequence[int] | None = None,
    *,
    fused: bool = False,
    shard_spec: ShardSpec = UNSHARDED,
    mtp_heads: int = 0,
) -> Iterator[ParamSpec]:
    """Yield every parameter of a checkpoint of `config`.

    Parameters
    ----------
    config
        The whole model; routers have a row for each of its experts.
    experts
        Ids of the experts in the checkpoint; by default all.
    fused
        Whether attention has MiMo-V2.5's `qkv_proj`.
    shard_spec
        The part of the model in the checkpoint; shapes are those of this part.
    mtp_heads
        Number of the MTP heads in the checkpoint that are wanted.
    """
    ids = range(config.n_routed_experts) if experts is None else experts
    local_experts = shard_spec.expert_range(len(ids))
    attention_params = fused_attention if fused else attention
    yield from embedding_norm_head(config, shard_spec)
    for index, spec in enumerate(map(shard_spec.local_layer, config.layers)):
        prefix = f"model.layers.{index}"
        yield from layer_norms(prefix, spec)
        yield from attention_params(prefix, spec.attention, spec.hidden_size)
        if not spec.num_experts:
            yield from dense(prefix, spec)
            continue
        yield from router(prefix, spec)
        for expert_id in ids[local_experts.start : local_experts.stop]:
            yield from expert(prefix, spec, expert_id)
    for index in range(mtp_heads):
        yield from mtp_head(
            mtp_prefix(index), shard_spec.local_layer(config.mtp_layer), fused=fused
        )
