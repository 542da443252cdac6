"""MiMoConfig: the hyperparameters of MiMo-V2-Flash, and the specification of every layer.

Source: hub config.json of XiaomiMiMo/MiMo-V2-Flash, whose names are kept. MiMo-V2.5, V2.6 and
their Pro models differ in these numbers only.
"""

import warnings
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partialmethod
from os import PathLike
from typing import Any

from . import config_file, config_rules
from .config_presets import find_preset
from .config_rules import PerLayer, QKVOrder, TokenIds
from .inputs import as_integer
from .kernels.attention import NO_WINDOW

__all__ = ["NO_WINDOW", "AttentionSpec", "LayerSpec", "MiMoConfig"]


@dataclass(frozen=True)
class AttentionSpec:
    """Hyperparameters of one layer's attention; full and sliding layers differ in these only."""

    num_heads: int
    num_kv_heads: int
    head_dim: int  # of a query or key head
    v_head_dim: int  # of a value head
    window: int  # keys that a token attends to, itself included; NO_WINDOW in full layers
    rotary_dim: int  # leading dimensions of a query or key head that are rotated
    rope_theta: float
    value_scale: float  # factor on values, before attention and cache
    has_sink: bool  # a learned logit per head in the softmax's denominator


@dataclass(frozen=True)
class LayerSpec:
    """Hyperparameters of one decoder layer; layers that compare equal share one program."""

    attention: AttentionSpec
    hidden_size: int  # width of the model
    intermediate_size: int  # width of the dense feed-forward, or of one expert
    num_experts: int  # 0 where the feed-forward is dense
    experts_per_token: int  # 0 where the feed-forward is dense
    routed_scaling_factor: float  # 1 where the feed-forward is dense
    norm_epsilon: float


@dataclass(frozen=True)
class MiMoConfig:
    """Model architecture; the defaults are MiMo-V2-Flash on one device.

    Names and values are those of the hub's config.json, except `sliding_window`, which counts the
    token itself, and `num_devices`, which is no part of the model. Widths count elements.

    Raises
    ------
    ValueError
        A field has a wrong type or value; it is named, with its value and what is allowed.
    """

    vocab_size: int = 152576  # number of token ids
    hidden_size: int = 4096  # width of the model
    intermediate_size: int = 16384  # width of the dense feed-forward: layer 0, MTP heads
    num_hidden_layers: int = 48  # MTP heads not counted
    max_position_embeddings: int = 262144  # tokens
    layernorm_epsilon: float = 1e-5  # transformers: rms_norm_eps
    initializer_range: float = 0.02  # standard deviation of random weights
    # Attention: full layers, sliding layers (swa), both.
    num_attention_heads: int = 64  # query heads of full layers
    num_key_value_heads: int = 4  # KV heads of full layers
    head_dim: int = 192  # of queries and keys
    v_head_dim: int = 128  # of values
    rope_theta: float = 5_000_000.0  # base of the frequencies of full layers
    add_full_attention_sink_bias: bool = False  # whether full layers have sinks
    swa_num_attention_heads: int = 64  # query heads of sliding layers
    swa_num_key_value_heads: int = 8  # KV heads of sliding layers
    swa_head_dim: int = 192  # of queries and keys of sliding layers
    swa_v_head_dim: int = 128  # of values of sliding layers
    swa_rope_theta: float = 10_000.0  # base of the frequencies of sliding layers
    add_swa_attention_sink_bias: bool = True  # whether sliding layers have sinks
    sliding_window: int = 129  # sliding_window_size + 1, as transformers and SGLang read it
    partial_rotary_factor: float = 0.334  # not 1/3: int(192 * 0.334) = 64 dimensions
    attention_value_scale: float = 0.707  # factor on values, before attention and cache
    # Mixture of experts.
    n_routed_experts: int = 256  # experts of a layer
    num_experts_per_tok: int = 8  # experts that a token chooses
    moe_intermediate_size: int = 2048  # width of one expert
    routed_scaling_factor: float = 1.0  # null on the hub; transformers reads 1
    hybrid_layer_pattern: PerLayer = (
        *(0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1),
        *(0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1),
        0,
    )  # for each layer 0 full, 1 sliding; in no period
    moe_layer_freq: PerLayer = (0, *(1,) * 47)  # for each layer 0 dense, 1 mixture of experts
    eos_token_id: TokenIds = 151645  # of the chat model; the base model has 151643
    num_devices: int = 1  # ranks that the experts are split over
    # "interleaved" is rank after rank, "plain" is [q | k | v]; None is what the scales say.
    fused_qkv_weight_order: QKVOrder = None  # rows of a checkpoint's qkv_proj

    def __post_init__(self) -> None:
        """Validate all fields."""
        config_rules.check(self)

    @classmethod
    def from_preset(cls, name: str, *, num_devices: int = 1) -> "MiMoConfig":
        """Return the config of a published model of the family, without files.

        Each preset has a method of its name: `v2_5_pro` returns that of "v2.5-pro".

        Parameters
        ----------
        name : str
            "v2-flash", "v2-flash-base", "v2.5", "v2.5-fp4", "v2.5-pro", "v2.5-pro-fp4",
            "v2.6-flash", "v2.6-flash-mopd" or "v2.6-pro".
        num_devices : int
            Ranks that the experts are split over.

        Raises
        ------
        ValueError
            There is no such model; the message names all.

        Examples
        --------
        >>> MiMoConfig.v2_5_pro().num_hidden_layers
        70
        """
        return cls(**find_preset(name).numbers, num_devices=num_devices)

    v2_flash = partialmethod(from_preset, "v2-flash")
    v2_flash_base = partialmethod(from_preset, "v2-flash-base")
    v2_5 = partialmethod(from_preset, "v2.5")
    v2_5_fp4 = partialmethod(from_preset, "v2.5-fp4")
    v2_5_pro = partialmethod(from_preset, "v2.5-pro")
    v2_5_pro_fp4 = partialmethod(from_preset, "v2.5-pro-fp4")
    v2_6_flash = partialmethod(from_preset, "v2.6-flash")
    v2_6_flash_mopd = partialmethod(from_preset, "v2.6-flash-mopd")
    v2_6_pro = partialmethod(from_preset, "v2.6-pro")

    @classmethod
    def from_pretrained(cls, path: str | PathLike[str], *, num_devices: int = 1) -> "MiMoConfig":
        """Read a config.json, in the hub's spelling or as transformers saves it.

        Where a file has both spellings and they conflict, transformers' is used, with a warning.
        Keys that nothing is known of are named in one warning.

        Parameters
        ----------
        path : str or PathLike
            The file, or the folder that holds it as config.json.
        num_devices : int
            Ranks that the experts are split over; a config.json does not have it.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file is no JSON object, another kind of model, incomplete or impossible, or a key
            asks for arithmetic that is not computed; file and key are named, with the key's value
            and what is allowed.
        """
        file = config_file.locate(path)
        names = [field.name for field in fields(cls) if field.name != "num_devices"]
        try:
            return cls(**config_file.read(file, names), num_devices=num_devices)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a config.json in the hub's spelling, ready for JSON."""
        values = asdict(self)
        del values["num_devices"]
        return config_file.to_hub(values)

    def truncated(self, num_layers: int) -> "MiMoConfig":
        """Return the config of the model's first `num_layers` layers; ValueError if it has fewer.

        All else is the whole model's: embedding, final norm and LM head follow the last layer kept.
        """
        if not 1 <= as_integer("num_layers", num_layers) <= self.num_hidden_layers:
            raise ValueError(f"num_layers {num_layers} is not in 1..{self.num_hidden_layers}")
        return replace(
            self,
            num_hidden_layers=num_layers,
            hybrid_layer_pattern=self.hybrid_layer_pattern[:num_layers],
            moe_layer_freq=self.moe_layer_freq[:num_layers],
        )

    @property
    def experts_per_device(self) -> int:
        """Experts that each device holds."""
        return self.n_routed_experts // self.num_devices

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The decoder layers, first to last."""
        return tuple(map(self._layer, self.hybrid_layer_pattern, self.moe_layer_freq))

    @property
    def mtp_layer(self) -> LayerSpec:
        """The layer of each multi-token-prediction (MTP) head: sliding and dense, `model.mtp`."""
        return self._layer(sliding=1, sparse=0)

    @property
    def predictor(self) -> LayerSpec:
        """Deprecated alias of `mtp_layer`."""
        message = "MiMoConfig.predictor is now MiMoConfig.mtp_layer"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.mtp_layer

    def _layer(self, sliding: int, sparse: int) -> LayerSpec:
        return LayerSpec(
            attention=self._attention("swa_" if sliding else ""),
            hidden_size=self.hidden_size,
            intermediate_size=self.moe_intermediate_size if sparse else self.intermediate_size,
            num_experts=self.n_routed_experts if sparse else 0,
            experts_per_token=self.num_experts_per_tok if sparse else 0,
            routed_scaling_factor=self.routed_scaling_factor if sparse else 1.0,
            norm_epsilon=self.layernorm_epsilon,
        )

    def _attention(self, kind: str) -> AttentionSpec:
        """Return the attention of the fields with prefix `kind`: "swa_", or "" for full layers."""
        head_dim = getattr(self, f"{kind}head_dim")
        return AttentionSpec(
            num_heads=getattr(self, f"{kind}num_attention_heads"),
            num_kv_heads=getattr(self, f"{kind}num_key_value_heads"),
            head_dim=head_dim,
            v_head_dim=getattr(self, f"{kind}v_head_dim"),
            window=self.sliding_window if kind else NO_WINDOW,
            rotary_dim=config_rules.rotary_dim(self.partial_rotary_factor, head_dim),
            rope_theta=getattr(self, f"{kind}rope_theta"),
            value_scale=self.attention_value_scale,
            has_sink=getattr(self, f"add_{kind or 'full_'}attention_sink_bias"),
        )
