"""Trace files are read as they were written; a file that is not a trace is refused by name."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.tracing.trace_file import OURS, open_trace, write_trace

CONFIG = MiMoConfig()
TENSORS = {"tokens": np.array([3, 1]), "logits": np.arange(6.0).reshape(2, 3)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trace.safetensors"


def test_what_is_written_is_read(path):
    assert write_trace(path, TENSORS, CONFIG) == 2 * 4 + 6 * 4
    with open_trace(path) as trace:
        assert trace.shapes == {"tokens": (2,), "logits": (2, 3)}
        for name, kind in (("tokens", np.int32), ("logits", np.float32)):
            np.testing.assert_array_equal(trace[name], TENSORS[name])
            assert trace[name].dtype == kind
        assert trace.config == json.loads(json.dumps(CONFIG.to_dict()))
        assert trace.made_by == OURS


def test_a_view_that_is_not_contiguous_is_written_as_it_reads(path):
    write_trace(path, {"logits": TENSORS["logits"].T}, CONFIG, "another program")
    with open_trace(path) as trace:
        np.testing.assert_array_equal(trace["logits"], TENSORS["logits"].T)
        assert trace.made_by == "another program"


def test_integers_are_asked_for(path):
    write_trace(path, TENSORS, CONFIG)
    with open_trace(path) as trace:
        assert trace.integers("tokens").tolist() == [3, 1]
        with pytest.raises(ValueError, match=f"{path}: logits is float32, expected integers"):
            trace.integers("logits")


def test_a_file_of_another_program_needs_no_metadata(path):
    save_file({"logits": TENSORS["logits"]}, path)
    with open_trace(path) as trace:
        assert (trace.made_by, trace.config) == ("unknown", {})


def damaged(path, how: str) -> None:
    if how == "truncated":
        write_trace(path, TENSORS, CONFIG)
        path.write_bytes(path.read_bytes()[:-3])
    elif how == "text":
        path.write_text("no trace, and long enough for a header to be looked for")
    else:
        save_file({"logits": TENSORS["logits"]}, path, {"config": "{"})


@pytest.mark.parametrize("how", ["truncated", "text", "config"])
def test_what_is_no_trace_is_refused(path, how):
    damaged(path, how)
    with pytest.raises(ValueError, match=f"{path}: not a trace"), open_trace(path):
        pass


def test_a_missing_file_and_a_folder_are_no_files(path, tmp_path):
    for missing in (path, tmp_path):
        error = pytest.raises(FileNotFoundError, match=f"{missing}: no such file")
        with error, open_trace(missing):
            pass


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "nowhere" / "trace.safetensors"
    with pytest.raises(OSError, match=str(path)):
        write_trace(path, TENSORS, CONFIG)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    """As root, safetensors would put a file in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=f"^{pipe}: not a regular file$"):
        write_trace(pipe, {"embedding": np.zeros((1, 2))}, MiMoConfig())
    assert pipe.is_fifo()


@pytest.mark.parametrize("config", ["[" * 100_000, "[1]", "nul"])
def test_a_config_that_is_no_object_is_named(tmp_path, config):
    path = tmp_path / "a.safetensors"
    save_file({"tokens": np.zeros(1, np.int32)}, path, {"config": config})
    with pytest.raises(ValueError, match=f"{path}: not a trace: "), open_trace(path):
        pass
