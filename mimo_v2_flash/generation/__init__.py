"""From a prompt to tokens and text: the loop, sampling, tokenizer, likelihood."""
