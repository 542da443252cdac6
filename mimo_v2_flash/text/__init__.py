"""Text around the model: tokenizer, chat template, completion, parser of answers, stop strings."""
