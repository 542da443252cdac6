"""Training of `examples/mimo-tiny`: text, tokenizer, main model, MTP heads, FP8 checkpoint.

    python -m tools.train_tiny --text FOLDER --work FOLDER --output FOLDER

Each stage writes its result into the work folder and is skipped if the result exists, so that an
interrupted run continues. Training is in PyTorch, with transformers' own model.
"""
