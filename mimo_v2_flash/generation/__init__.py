"""From a prompt to tokens: the loop, sampling, drafts, tokenizer and chat."""
