"""GGUF's keys of a byte-level BPE tokenizer, and tokenizer.json, in both directions.

GGUF has no key for a normaliser: files whose pre-tokenizer is "qwen2" are read with Qwen2's, NFC.

Source: the gguf package 0.19 (`Keys.Tokenizer`, `TokenType`); tokenizer.json of Qwen/Qwen2-7B.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .model_keys import KeyValue

__all__ = ["keys_of_tokenizer", "tokenizer_config_of_keys", "tokenizer_of_keys"]

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType
MODEL, PRE_TOKENIZER = "gpt2", "qwen2"  # as llama.cpp calls byte-level BPE, and Qwen2's split
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
SPECIAL = {"eos_token": "eos", "pad_token": "padding", "bos_token": "bos", "unk_token": "unknown"}


def keys_of_tokenizer(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], vocab_size: int
) -> Iterator[KeyValue]:
    """Yield the keys of a tokenizer.json and its tokenizer_config.json.

    Parameters
    ----------
    tokenizer, config
        Their contents.
    vocab_size
        Rows of the model's embedding; ids without a token are written as unused.

    Raises
    ------
    ValueError
        If it is no byte-level BPE that splits text as Qwen2's does.
    """
    _check_split(tokenizer)
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [UNUSED] * vocab_size
    for token, index in tokenizer["model"]["vocab"].items():
        tokens[index], types[index] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = tokenizer["model"]["merges"]
    yield _key("model", "STRING", MODEL)
    yield _key("pre", "STRING", PRE_TOKENIZER)
    yield _key("tokens", "ARRAY", tokens)
    yield _key("token_type", "ARRAY", types)
    yield _key("merges", "ARRAY", [m if isinstance(m, str) else " ".join(m) for m in merges])
    first = _first_tokens(tokenizer)
    yield _key("add_bos_token", "BOOL", bool(first))
    special = {name: _content(config.get(name)) for name in SPECIAL}
    special |= {"bos_token": first[0]} if first else {}
    for name, token in special.items():
        if token in tokens:
            yield KeyValue(
                f"tokenizer.ggml.{SPECIAL[name]}_token_id", "UINT32", tokens.index(token)
            )


def tokenizer_of_keys(keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the content of tokenizer.json of a file's keys, None if it has no tokenizer.

    Raises
    ------
    ValueError
        If it is another tokenizer than Qwen2's byte-level BPE; key and value are named.
    """
    if (model := keys.get("tokenizer.ggml.model", "none")) == "none":
        return None
    for name, value, expected in (
        ("model", model, MODEL),
        ("pre", keys.get("tokenizer.ggml.pre"), PRE_TOKENIZER),
    ):
        if value != expected:
            raise ValueError(f"tokenizer.ggml.{name} is {value!r}, expected {expected!r}")
    tokens = keys["tokenizer.ggml.tokens"]
    types = keys.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    numbered = list(enumerate(zip(tokens, types, strict=True)))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(index, token, special=kind == CONTROL)
            for index, (token, kind) in numbered
            if kind in {CONTROL, USER_DEFINED}
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": _pre_tokenizer(),
        "post_processor": _post_processor(keys, tokens),
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            # Added tokens are in it: tokenizers numbers those that are not by themselves.
            "vocab": {token: index for index, (token, kind) in numbered if kind != UNUSED},
            "merges": [merge.split(" ", 1) for merge in keys.get("tokenizer.ggml.merges", [])],
        },
    }


def tokenizer_config_of_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of tokenizer_config.json of a file's keys."""
    tokens, ids = keys["tokenizer.ggml.tokens"], {}
    for name, key in SPECIAL.items():
        if (index := keys.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            ids[name] = tokens[index]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **ids,
    }


def _key(name: str, kind: str, value: Any) -> KeyValue:
    return KeyValue(f"tokenizer.ggml.{name}", kind, value)


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _check_split(tokenizer: Mapping[str, Any]) -> None:
    splits = (tokenizer.get("pre_tokenizer") or {}).get("pretokenizers", [{}])
    patterns = [split.get("pattern", {}).get("Regex") for split in splits]
    if tokenizer["model"].get("type") != "BPE" or SPLIT not in patterns:
        raise ValueError("the tokenizer is no byte-level BPE that splits text as Qwen2's does")


def _first_tokens(tokenizer: Mapping[str, Any]) -> list[str]:
    """Return the tokens that the tokenizer puts before a text."""
    single = (tokenizer.get("post_processor") or {}).get("single", [])
    return [part["SpecialToken"]["id"] for part in single if "SpecialToken" in part]


def _added(index: int, token: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, **flags, "special": special}


def _pre_tokenizer() -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}


def _post_processor(keys: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Return the first token that the tokenizer puts before a text, if it does."""
    index = keys.get("tokenizer.ggml.bos_token_id")
    if index is None or not keys.get("tokenizer.ggml.add_bos_token", False):
        return {**BYTE_LEVEL, "use_regex": False}
    token = tokens[index]
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, *text],
        "pair": [*text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }
