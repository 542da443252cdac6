"""GGUF files on disk: parts are one model, a damaged file is one line that names it."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.gguf_files.file import GGUFFile
from tests.support.gguf_models import write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write_tiny(folder / "whole.gguf")
    write_tiny(folder / "split.gguf", split_bytes=20_000)
    return folder


def test_any_part_opens_the_whole_model(folder):
    parts = sorted(folder.glob("split-*.gguf"))
    assert len(parts) > 2
    whole = GGUFFile(folder / "whole.gguf")
    for part in (parts[0], parts[-1]):
        split = GGUFFile(part)
        assert split.paths == parts
        assert split.tensors.keys() == whole.tensors.keys()
        assert split.keys["mimo2.block_count"] == whole.keys["mimo2.block_count"]
        for name, tensor in whole.tensors.items():
            assert tensor.shape == split.tensors[name].shape
            assert tensor.data.tobytes() == split.tensors[name].data.tobytes()


def test_a_missing_part_is_named(folder, tmp_path):
    parts = sorted(folder.glob("split-*.gguf"))
    for part in parts[1:]:
        (tmp_path / part.name).symlink_to(part)
    with pytest.raises(FileNotFoundError, match=f"{parts[0].name}: no such file"):
        GGUFFile(tmp_path / parts[1].name)


def refusal(file: Path) -> str | None:
    """Return the message that a file is refused with, None if it is read."""
    try:
        assert GGUFFile(file).tensors is not None
    except ValueError as error:
        return str(error)
    return None


@given(data=st.data())
@settings(max_examples=40)
def test_a_damaged_file_is_refused_or_read(folder, tmp_path_factory, data):
    content = bytearray((folder / "whole.gguf").read_bytes())
    header = 4096
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(1, 4))):
        if content:
            content[data.draw(st.integers(0, min(header, len(content)) - 1))] ^= 1 << data.draw(
                st.integers(0, 7)
            )
    file = tmp_path_factory.mktemp("damaged") / "damaged.gguf"
    file.write_bytes(content)
    with suppress(OSError):
        problem = refusal(file)
        assert problem is None or (str(file) in problem and "\n" not in problem)
