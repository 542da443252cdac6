"""Text around the model: tokenizer, incremental detokenizer, and completion of prompts."""
