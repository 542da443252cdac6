"""A model after a fork: children of a process whose threads have run give the parent's logits."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import multiprocessing, warnings
import numpy as np
import torch
from mimo_v2_flash import load_model

warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks of several threads
model = load_model("examples/mimo-tiny")
prompts = np.arange(3 * 40).reshape(3, 1, 40)
expected = [model.forward(prompt) for prompt in prompts]

class Logits(torch.utils.data.Dataset):
    def __len__(self):
        return len(prompts)

    def __getitem__(self, index):
        return model.forward(prompts[index])

with multiprocessing.get_context("fork").Pool(2) as pool:
    np.testing.assert_array_equal(pool.map(model.forward, prompts, chunksize=1), expected)
loader = torch.utils.data.DataLoader(
    Logits(), batch_size=None, num_workers=2, multiprocessing_context="fork"
)
np.testing.assert_array_equal(list(loader), expected)
np.testing.assert_array_equal([model.forward(prompt) for prompt in prompts], expected)
"""


def test_children_of_multiprocessing_and_of_a_data_loader_give_the_same_logits():
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"MIMO_NUM_THREADS": "3"},
    )
