"""A round trip to llama.cpp: a checkpoint as a GGUF file, read by both, with the same logits.

python -m examples.llama_cpp_round_trip

llama.cpp is that of the wheel xllamacpp; without it this project alone reads the file.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.llama_cpp import LlamaCpp, find_library
from mimo_v2_flash import MiMoConfig, example_folder, load_model, load_weights
from mimo_v2_flash.convert.gguf_writer import plan_gguf
from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens

TEXT = "The list type is a mutable sequence, and a tuple is none. " * 12


def round_trip(file: Path) -> dict[str, float]:
    """Write the file; return how far each reader's logits are from the checkpoint's, of the range.

    The text is longer than the window, so that its edge is seen.
    """
    folder = example_folder()
    config = MiMoConfig.from_pretrained(folder)
    plan_gguf(file, config, load_weights(folder, config), "float32", folder).write(lambda _: None)
    ids = np.array([tokens(load_tokenizer(folder), TEXT)])
    logits = {"mimo_v2_flash": load_model(file).forward(ids)}
    if find_library() is not None:
        llama = LlamaCpp(file, threads=1)
        llama.start(1, ids.size, exact=True)
        logits["llama.cpp"] = llama.step(ids)
        llama.close()
    expected = load_model(folder).forward(ids)
    scale = float(np.ptp(expected))
    return {name: float(np.abs(each - expected).max()) / scale for name, each in logits.items()}


def main() -> None:
    """Print the differences."""
    with TemporaryDirectory() as folder:
        for reader, difference in round_trip(Path(folder) / "mimo-tiny.gguf").items():
            print(f"{reader}: {difference:.1e} of the range")


if __name__ == "__main__":
    main()
