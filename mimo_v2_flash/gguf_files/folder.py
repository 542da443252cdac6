"""The folder that stands for a GGUF file: a config, a tokenizer, and a link to the weights.

Whatever reads a checkpoint's folder reads a GGUF file so: `as_folder(path)` is its first line.
"""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from mimo_v2_flash.json_object import read_json_object

from .file import SUFFIX, GGUFFile
from .model_keys import KeyValue, config_of_keys
from .tokenizer_keys import keys_of_tokenizer, tokenizer_config_of_keys, tokenizer_of_keys

__all__ = ["as_folder", "gguf_in", "keys_of_side_files"]

GENERATION_CONFIG = "generation_config.json"
GENERATION_KEY = f"mimo_v2_flash.{GENERATION_CONFIG}"
"""A key of this package: the checkpoint's file as it is; GGUF's own keys know fewer settings."""
SAMPLING = {"temperature": "temp", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
TEMPLATE = "tokenizer.chat_template"


def as_folder(
    path: str | PathLike[str],
    *,
    value_scale: float | None = None,
    window_keys: int | None = None,
) -> Path:
    """Return `path`, or if it is a GGUF file the folder that stands for it.

    The folder is made once for a process, which removes it at its end, and has a link to each of
    the file's parts.

    Parameters
    ----------
    path
        A folder or file of a checkpoint.
    value_scale
        The scale of values of a file that lacks it.
    window_keys
        How many keys a token of a sliding layer attends to, itself included, where the file counts
        otherwise.

    Raises
    ------
    FileNotFoundError
        If a part of the file is missing.
    ValueError
        If the file is damaged, of another architecture, or lacks a key; file and key are named.
    ImportError
        If the package gguf is not installed.
    """
    file = Path(path)
    if file.suffix != SUFFIX or file.is_dir():
        return file
    modified = file.stat().st_mtime_ns if file.is_file() else 0
    return _made(file.absolute(), modified, value_scale, window_keys)


@cache
def _made(file: Path, _modified: int, value_scale: float | None, window_keys: int | None) -> Path:
    """Return the folder that stands for a file of this time of modification."""
    gguf = GGUFFile(file)
    try:
        contents = dict(_contents(gguf, value_scale, window_keys))
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{file}: damaged keys: {type(error).__name__} {error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return _write(gguf, contents)


def gguf_in(folder: Path) -> Path | None:
    """Return the GGUF file in a folder whose weights are in no other; None if there is none."""
    if not folder.is_dir() or next(folder.glob("*.safetensors"), None):
        return None
    return min(folder.glob(f"*{SUFFIX}"), default=None)


def keys_of_side_files(folder: Path, vocab_size: int) -> Iterator[KeyValue]:
    """Yield the keys of the tokenizer, chat template and generation defaults in a folder.

    Raises
    ------
    ValueError
        If the tokenizer is one that GGUF's readers do not know.
    """
    if (folder / "tokenizer.json").is_file():
        config = _read(folder / "tokenizer_config.json")
        tokenizer = _read(folder / "tokenizer.json")
        yield from keys_of_tokenizer(tokenizer, config, vocab_size)
        template = folder / "chat_template.jinja"
        text = template.read_text() if template.is_file() else config.get("chat_template")
        if isinstance(text, str):
            yield KeyValue(TEMPLATE, "STRING", text)
    else:
        yield KeyValue("tokenizer.ggml.model", "STRING", "none")
    generation = _read(folder / GENERATION_CONFIG)
    if generation:
        yield KeyValue(GENERATION_KEY, "STRING", json.dumps(generation))
    for name, key in SAMPLING.items():
        if generation.get(name) is not None:
            kind = "INT32" if name == "top_k" else "FLOAT32"
            yield KeyValue(f"general.sampling.{key}", kind, generation[name])


def _read(file: Path) -> dict[str, Any]:
    return read_json_object(file) if file.is_file() else {}


def _contents(
    gguf: GGUFFile, value_scale: float | None, window_keys: int | None
) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file of the folder."""
    keys, tensors = gguf.keys, gguf.tensors
    vocab_size = tensors["token_embd.weight"].shape[0]
    config = config_of_keys(
        keys, tensors, vocab_size, value_scale=value_scale, window_keys=window_keys
    )
    if (end := keys.get("tokenizer.ggml.eos_token_id")) is not None:
        config["eos_token_id"] = end
    yield "config.json", json.dumps(config)
    yield GENERATION_CONFIG, keys.get(GENERATION_KEY) or json.dumps(_generation(keys))
    tokenizer = tokenizer_of_keys(keys)
    if tokenizer:
        yield "tokenizer.json", json.dumps(tokenizer)
        yield "tokenizer_config.json", json.dumps(tokenizer_config_of_keys(keys))
    if TEMPLATE in keys:
        yield "chat_template.jinja", keys[TEMPLATE]


def _generation(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of generation_config.json that GGUF's own keys have."""
    sampling = {
        name: keys[f"general.sampling.{key}"]
        for name, key in SAMPLING.items()
        if f"general.sampling.{key}" in keys
    }
    ends = (keys.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return {
        "do_sample": bool(sampling),
        **sampling,
        "eos_token_id": sorted({end for end in ends if end is not None}),
    }


def _write(gguf: GGUFFile, contents: Mapping[str, str]) -> Path:
    hidden = Path(tempfile.mkdtemp(prefix="mimo-gguf-"))
    atexit.register(shutil.rmtree, hidden, ignore_errors=True)
    folder = hidden / gguf.paths[0].stem
    folder.mkdir()
    for part in gguf.paths:
        (folder / part.name).symlink_to(part)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder
