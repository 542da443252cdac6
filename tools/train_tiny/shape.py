"""Configuration of the tiny model: MiMo-V2-Flash's head widths and kinds of layers, else small."""

from transformers import MiMoV2FlashConfig

from .tokens import END_OF_TEXT, VOCABULARY

__all__ = ["LENGTH", "NUM_MTP_HEADS", "configuration"]

LENGTH = 1024  # tokens of a training sequence: eight windows
NUM_MTP_HEADS = 3
FULL, SLIDING = "full_attention", "sliding_attention"


def configuration() -> MiMoV2FlashConfig:
    """Return the config in the native fields of transformers."""
    rope = {"rope_type": "default", "partial_rotary_factor": 0.334}
    return MiMoV2FlashConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        moe_intermediate_size=128,
        num_hidden_layers=6,
        layer_types=[FULL, SLIDING, SLIDING, SLIDING, SLIDING, FULL],
        mlp_layer_types=["dense", *["sparse"] * 5],
        num_attention_heads=8,
        num_key_value_heads=4,  # of full layers; sliding ones have twice as many
        head_dim=192,
        v_head_dim=128,
        sliding_window=129,  # a token sees itself and 128 before it
        n_routed_experts=16,
        num_experts_per_tok=4,
        routed_scaling_factor=1.0,
        attention_value_scale=0.707,
        rms_norm_eps=1e-5,
        initializer_range=0.05,
        rope_parameters={
            FULL: rope | {"rope_theta": 5_000_000.0},
            SLIDING: rope | {"rope_theta": 10_000.0},
        },
        max_position_embeddings=LENGTH,
        bos_token_id=None,
        eos_token_id=END_OF_TEXT,
        pad_token_id=END_OF_TEXT,
    )
