"""Text generation around the model: tokenizer, incremental detokenizer, prompt completion."""
