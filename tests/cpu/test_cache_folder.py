"""The cache folder of the user: XDG_CACHE_HOME's if that is absolute, else his home's."""

from pathlib import Path

import pytest

from mimo_v2_flash.cpu.cache_folder import cache_folder


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "~/.cache/mimo-v2-flash"),
        ({"XDG_CACHE_HOME": ""}, "~/.cache/mimo-v2-flash"),
        ({"XDG_CACHE_HOME": "relative/cache"}, "~/.cache/mimo-v2-flash"),
        ({"XDG_CACHE_HOME": "/var/cache/me"}, "/var/cache/me/mimo-v2-flash"),
    ],
)
def test_it_is_where_the_specification_says(env, expected):
    assert cache_folder(env) == Path(expected)
