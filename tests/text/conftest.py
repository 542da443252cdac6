"""A small tokenizer with a chat template, in a folder."""

import pytest

from tests.support.tiny_text import TEMPLATE, small_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder, which tests do not change."""
    path = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer().save_pretrained(path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path
