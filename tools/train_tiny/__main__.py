"""Train the tiny checkpoint, stage by stage; stages with results in the work folder are skipped.

apt-get download python3.11-doc && dpkg-deb -x python3.11-doc_*.deb text
python -m tools.train_tiny --text text --work work --output examples/mimo-tiny
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from mimo_v2_flash.atomic_file import atomic_write

from . import corpus, heads, tokens, trunk
from .publish import publish


def main() -> None:
    """Read the command line and run the stages that have no result yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text", type=Path, required=True, help="Folder of the documents, *.rst.txt."
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="Folder of the results of every stage."
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="Folder that the checkpoint is written to."
    )
    parser.add_argument(
        "--threads", type=int, help="Number of PyTorch threads (default: all cores)."
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    tokenize(options.text, options.work)
    trunk.train(options.work)
    heads.train(options.work)
    publish(options.work, options.output)


def tokenize(text: Path, work: Path) -> None:
    """Write the text, the tokenizer and the token ids."""
    if (work / "held_out.npy").exists():
        return
    corpus.write(text, work)
    tokenizer = tokens.train(work / "train.txt")
    tokenizer.save(str(work / "tokenizer.json"))
    for name in ("train", "held_out"):
        ids = tokens.encode(Tokenizer.from_file(str(work / "tokenizer.json")), work / f"{name}.txt")
        with atomic_write(work / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, ids)


if __name__ == "__main__":
    main()
