"""How `examples/mimo-tiny` was made: text, tokenizer, trunk, predictors, FP8 files, their card.

    python -m tools.train_tiny --text FOLDER --work FOLDER

Each stage writes its result into the work folder and is skipped where that result lies already, so
an interrupted run goes on where it was. Training is in PyTorch, with transformers' own model.
"""
