"""GGUF, llama.cpp's files, of architecture mimo2: keys, names and tokenizer, in both directions."""

from .folder import as_folder, gguf_in

__all__ = ["as_folder", "gguf_in"]
