"""Training of the checkpoints in `examples/`: text, tokenizer, main model, MTP heads, FP8 files.

    python -m tools.train --shape small --text FOLDER --work FOLDER --output FOLDER

Each stage writes its result into the work folder and is skipped if the result exists, so that an
interrupted run continues. Training is in PyTorch; transformers' model is the oracle.
"""
