"""Keys, names, tokenizers and folders of GGUF files."""
