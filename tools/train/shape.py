"""The shapes that can be trained, as data: sizes of the model, its text and its training."""

from dataclasses import dataclass

from transformers import MiMoV2FlashConfig

from .tokens import END_OF_TEXT

__all__ = ["FULL", "NUM_MTP_HEADS", "SHAPES", "SLIDING", "Shape"]

NUM_MTP_HEADS = 3
FULL, SLIDING = "full_attention", "sliding_attention"
LAYER_TYPES = {"F": FULL, "S": SLIDING}
HEADS = {"num_attention_heads": 8, "head_dim": 192, "v_head_dim": 128}  # MiMo-V2-Flash's widths


@dataclass(frozen=True)
class Shape:
    """A model and how it is trained.

    Attributes
    ----------
    layers
        F (full) and S (sliding) by layer; the first has a dense feed-forward, the others experts.
    hidden, dense_width, expert_width, vocabulary
        Sizes of the model.
    length
        The context, and the most tokens of a training segment.
    tokens
        Tokens of a training step, a multiple of 128.
    conversations
        How many conversations are made to train on; none: the model reads documents alone.
    minutes
        Minutes of the training, if the command line does not say.
    template
        File of the chat template, in `templates/`.
    """

    layers: str
    hidden: int
    dense_width: int
    expert_width: int
    vocabulary: int
    length: int
    tokens: int
    conversations: int
    minutes: float
    template: str

    def configuration(self) -> MiMoV2FlashConfig:
        """Return the config in the native fields of transformers."""
        rope = {"rope_type": "default", "partial_rotary_factor": 0.334}
        return MiMoV2FlashConfig(
            **HEADS,
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.dense_width,
            moe_intermediate_size=self.expert_width,
            num_hidden_layers=len(self.layers),
            layer_types=[LAYER_TYPES[each] for each in self.layers],
            mlp_layer_types=["dense", *["sparse"] * (len(self.layers) - 1)],
            num_key_value_heads=4,  # of full layers; sliding ones have twice as many
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
            max_position_embeddings=self.length,
            bos_token_id=None,
            eos_token_id=END_OF_TEXT,
            pad_token_id=END_OF_TEXT,
        )


SHAPES = {
    "tiny": Shape(
        layers="FSSSSF",
        hidden=128,
        dense_width=512,
        expert_width=128,
        vocabulary=4096,
        length=1024,
        tokens=8192,
        conversations=0,
        minutes=20,
        template="tiny.jinja",
    ),
    "small": Shape(
        layers="FSSFSF",
        hidden=256,
        dense_width=1024,
        expert_width=256,
        vocabulary=6144,
        length=1024,
        tokens=4096,
        conversations=40_000,
        minutes=75,
        template="small.jinja",
    ),
}
