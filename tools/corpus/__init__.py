"""The text that `tools.train` trains on: documents, and conversations that a program makes.

    python -m tools.corpus --text FOLDER --work FOLDER --conversations 80000

Documents are Python's documentation (`python_docs.py`) and docstrings of installed packages
(`docstrings.py`). What is held out is so by its name, and never occurs in the training text.
"""
