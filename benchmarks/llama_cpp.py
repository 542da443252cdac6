"""llama.cpp by its C interface, with a GGUF file: a peer that shares no code with this project.

The library is that of the wheel xllamacpp, which is built for AVX2, or the libllama.so that the
variable LLAMA_CPP_LIBRARY names: one built for this processor is the fairer peer of a speed.

Source: llama.h of llama.cpp 0.5 and 0.6, whose structs begin alike. The defaults that the library
fills in are compared with those known before anything else is called.
"""

import ctypes
import os
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint8, c_uint32
from ctypes import c_void_p as pointer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LIBRARY", "LlamaCpp", "find_library"]

LIBRARY = "LLAMA_CPP_LIBRARY"
F32, F16 = 0, 1  # ggml_type
UNITS = ("avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_int8")
FLAGS = bytes((0, 1, 1, 1, 1, 0))  # embeddings, offload_kqv, no_perf, op_offload, swa_full, unified
SWA_FULL = 4  # of FLAGS: whether sliding layers keep all keys; llama.cpp's own programs say no
CHUNK = 512  # tokens of a step


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class ModelParams(Structure):
    """`llama_model_params`, and room for the flags of later versions."""

    _fields_ = (
        *_fields(pointer, "devices tensor_overrides"),
        *_fields(c_int32, "n_gpu_layers split_mode load_mode lazy_mode main_gpu"),
        *_fields(pointer, "tensor_split progress progress_data kv_overrides"),
        *_fields(c_bool, "vocab_only check_tensors use_extra_bufts no_host"),
        ("later", c_uint8 * 256),
    )


class ContextParams(Structure):
    """`llama_context_params` up to the types of the cache; `later` has flags and what follows."""

    _fields_ = (
        *_fields(c_uint32, "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs n_outputs_per_seq"),
        *_fields(c_int32, "n_threads n_threads_batch context_type"),
        *_fields(c_int32, "rope_scaling pooling attention flash_attention"),
        *_fields(c_float, "rope_base rope_scale yarn_ext yarn_attn yarn_fast yarn_slow"),
        *_fields(c_uint32, "yarn_context"),
        *_fields(c_float, "defrag"),
        *_fields(pointer, "on_tensor on_tensor_data"),
        *_fields(c_int32, "type_k type_v"),
        ("later", c_uint8 * 256),
    )


class Batch(Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", pointer),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


SIGNATURES = {
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (pointer, c_char_p, ModelParams),
    "llama_init_from_model": (pointer, pointer, ContextParams),
    "llama_model_get_vocab": (pointer, pointer),
    "llama_vocab_n_tokens": (c_int32, pointer),
    "llama_tokenize": (c_int32, pointer, c_char_p, c_int32, pointer, c_int32, c_bool, c_bool),
    "llama_free": (None, pointer),
    "llama_model_free": (None, pointer),
    "llama_batch_init": (Batch, c_int32, c_int32, c_int32),
    "llama_batch_free": (None, Batch),
    "llama_decode": (c_int32, pointer, Batch),
    "llama_get_logits_ith": (POINTER(c_float), pointer, c_int32),
}


def find_library() -> Path | None:
    """Return the path of llama.cpp's library, None if there is none."""
    if named := os.environ.get(LIBRARY):
        return Path(named)
    wheel = find_spec("xllamacpp")
    if wheel is None or wheel.origin is None:
        return None
    return next(Path(wheel.origin).parent.glob("xllamacpp*.so"), None)


class LlamaCpp:
    """A GGUF file in llama.cpp, and the sequences of one batch.

    Parameters
    ----------
    path
        The file.
    threads
        How many threads compute.
    repack
        Whether weights are put into an order that is faster for decoding.
    """

    def __init__(self, path: Path, threads: int, *, repack: bool = True) -> None:
        self._c, self._log = _load_library()
        self._threads, self._context, self._length = threads, None, 0
        params = self._c.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = 0, repack
        self._model = self._c.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise ValueError(f"{path}: llama.cpp does not load it: {''.join(self._log[-5:])}")
        self._vocab = self._c.llama_model_get_vocab(self._model)
        self.vocab_size = self._c.llama_vocab_n_tokens(self._vocab)

    @property
    def units(self) -> list[str]:
        """The instruction sets that the library uses here."""
        return [unit for unit in UNITS if getattr(self._c, f"ggml_cpu_has_{unit}")()]

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, special ones included."""
        data = text.encode()
        ids = np.empty(len(data) + 8, np.int32)
        count = self._c.llama_tokenize(
            self._vocab, data, len(data), ids.ctypes.data, ids.size, True, True
        )
        return ids[:count].tolist()

    def start(self, rows: int, length: int, *, exact: bool = False) -> None:
        """Begin anew with `rows` sequences of at most `length` tokens.

        Where it is to be `exact`, keys and values are float32; otherwise as llama.cpp chooses,
        float16 and flash attention.
        """
        self.end()
        params = self._c.llama_context_default_params()
        params.n_ctx, params.n_seq_max = rows * max(length, CHUNK), rows
        params.n_batch = params.n_ubatch = CHUNK
        params.n_outputs = params.n_outputs_per_seq = 0
        params.n_threads = params.n_threads_batch = self._threads
        params.type_k = params.type_v = F32 if exact else F16
        params.flash_attention = 0 if exact else -1
        later = bytearray(params.later)
        later[later.find(FLAGS) + SWA_FULL] = 0
        params.later[:] = later
        self._context = self._c.llama_init_from_model(self._model, params)
        if not self._context:
            raise ValueError(f"llama.cpp makes no context: {''.join(self._log[-5:])}")
        self._length = 0

    def end(self) -> None:
        """Free the sequences."""
        if self._context:
            self._c.llama_free(self._context)
        self._context = None

    def close(self) -> None:
        """Free the sequences and the model."""
        self.end()
        self._c.llama_model_free(self._model)

    def step(self, token_BT: np.ndarray, *, last_only: bool = False) -> np.ndarray:
        """Read tokens of each sequence; return logits [B, T, V], or [B, 1, V] of the last ones."""
        B, T = token_BT.shape
        width = CHUNK // B
        parts = [
            self._step(token_BT[:, begin : begin + width], last_only)
            for begin in range(0, T, width)
        ]
        return parts[-1] if last_only else np.concatenate(parts, 1)

    def _step(self, token_BT: np.ndarray, last_only: bool) -> np.ndarray:
        B, T = token_BT.shape
        batch = self._c.llama_batch_init(B * T, 0, 1)
        batch.n_tokens = B * T
        for index, (row, t) in enumerate(np.ndindex(B, T)):
            batch.token[index], batch.pos[index] = int(token_BT[row, t]), self._length + t
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
            batch.logits[index] = not last_only or t == T - 1
        status = self._c.llama_decode(self._context, batch)
        with_logits = [index for index in range(B * T) if batch.logits[index]]
        self._c.llama_batch_free(batch)
        if status:
            raise ValueError(f"llama_decode returns {status}: {''.join(self._log[-5:])}")
        self._length += T
        rows = (self._c.llama_get_logits_ith(self._context, index) for index in with_logits)
        shape = (self.vocab_size,)
        logits = [np.ctypeslib.as_array(row, shape).copy() for row in rows]
        return np.stack(logits).reshape(B, -1, self.vocab_size)


_libraries: list[tuple[Any, list[str], Any]] = []


def _load_library() -> tuple[Any, list[str]]:
    """Return the library, opened and checked once, and the list that its log goes to."""
    if not _libraries:
        path, log = find_library(), list[str]()
        if path is None:
            raise ImportError(f"no llama.cpp: pip install xllamacpp, or set {LIBRARY}")
        library = ctypes.CDLL(str(path))
        for name, (result, *arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        keep = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, pointer)(
            lambda _level, text, _data: log.append(text.decode(errors="replace"))
        )
        library.llama_log_set(keep, None)
        library.llama_backend_init()
        _check_structs(library)
        _libraries.append((library, log, keep))
    library, log, _ = _libraries[0]
    return library, log


def _check_structs(library: Any) -> None:
    model, context = library.llama_model_default_params(), library.llama_context_default_params()
    of_model = (model.n_gpu_layers, model.split_mode, model.use_extra_bufts, model.check_tensors)
    of_context = (context.n_ctx, context.n_batch, context.n_seq_max, context.flash_attention)
    types = (context.defrag, context.type_k, context.type_v, bytes(context.later).find(FLAGS) >= 0)
    defaults = ((-1, 1, True, False), (512, 2048, 1, -1), (-1.0, F16, F16, True))
    if (of_model, of_context, types) != defaults:
        raise RuntimeError(f"llama.cpp's structs are others: {of_model}, {of_context}, {types}")
