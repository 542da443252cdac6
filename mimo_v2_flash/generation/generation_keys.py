"""What each key of a generation_config.json does here, as data for `config_keys`.

Source: transformers 5.23 generation/configuration_utils.py (`GenerationConfig.__init__` and
`_get_default_generation_params`), generation/utils.py (`_get_logits_processor`).
"""

from typing import Any

from mimo_v2_flash.config_keys import KeyRules

__all__ = ["GENERATION_KEYS"]

_USED = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty"),  # of vLLM and SGLang
    *("eos_token_id", "suppress_tokens"),
)

_ONE, _ZERO = (None, 1), (None, 0)
_EMPTY: tuple[Any, ...] = (None, [], {})
_BEAMS = ("num_beams", "num_beam_groups", "num_return_sequences")
_LENGTHS = ("min_length", "min_new_tokens")
_NGRAMS = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
_CUTOFFS = ("epsilon_cutoff", "eta_cutoff")
_WORDS = ("bad_words_ids", "begin_suppress_tokens", "force_words_ids", "constraints")
_FORCED = ("forced_bos_token_id", "forced_eos_token_id")
_OTHERS = ("top_h", "dola_layers", "watermarking_config", "assistant_ensemble_weight", "max_time")
_DECAY = "exponential_decay_length_penalty"
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys((*_BEAMS, "guidance_scale", "typical_p", "encoder_repetition_penalty"), _ONE),
    **dict.fromkeys((*_LENGTHS, *_NGRAMS, *_CUTOFFS, "penalty_alpha", "token_healing"), _ZERO),
    **dict.fromkeys((*_WORDS, "stop_strings", "sequence_bias"), _EMPTY),
    **dict.fromkeys((*_FORCED, *_OTHERS, _DECAY), (None,)),
}
"""Every key that would change the tokens -> the values that leave them as they are."""

_WITHOUT_EFFECT_BY_REASON: dict[str, tuple[str, ...]] = {
    "it says which code wrote the file": (
        *("transformers_version", "_from_model_config", "_commit_hash"),
    ),
    "a call says how many tokens it generates": ("max_length", "max_new_tokens"),
    "prompts are passed as they are, and rows need no padding": (
        *("bos_token_id", "pad_token_id", "decoder_start_token_id"),
    ),
    "it is of beam search, which is refused": (
        *("early_stopping", "length_penalty", "diversity_penalty"),
    ),
    "it changes no order and no difference of scores": ("renormalize_logits",),
    "scores that are no numbers are an error here": ("remove_invalid_values",),
    "it says how transformers computes, not what": (
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("compile_config", "disable_compile", "continuous_batching_config", "prefill_chunk_size"),
    ),
    "it is of what transformers returns beside the tokens": (
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate",),
    ),
    "draft tokens leave the distribution as it is": (
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "use_mtp"),
        *("assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
        *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "speculation_type"),
    ),
}
_WITHOUT_EFFECT = {key: why for why, keys in _WITHOUT_EFFECT_BY_REASON.items() for key in keys}

GENERATION_KEYS = KeyRules(_USED, _SUPPORTED, _WITHOUT_EFFECT)
"""The keys that are used, that are refused unless they are off, and that have no effect."""
