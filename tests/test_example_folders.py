"""Example models are found in a checkout and in an installed package, each by its name."""

import pytest

from mimo_v2_flash import example_folder, example_folders
from mimo_v2_flash.example_folders import example_names


@pytest.fixture
def places(monkeypatch, tmp_path):
    """Return two folders in which examples are looked for: a package's, and a checkout's."""
    places = tmp_path / "package", tmp_path / "checkout"
    monkeypatch.setattr(example_folders, "PLACES", places)
    return places


def write_example(place, name):
    folder = place / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_the_checkout_has_an_example_and_it_is_the_default():
    assert (example_folder() / "tokenizer.json").is_file()
    assert example_folder() == example_folder("mimo-tiny")


def test_every_folder_with_a_config_is_an_example(places):
    folders = [write_example(places[place], name) for place, name in ((1, "b"), (0, "a"))]
    (places[1] / "no_model").mkdir()
    assert sorted(example_names()) == ["a", "b"]
    assert [example_folder("b"), example_folder("a")] == folders


def test_of_two_the_package_has_the_first_say(places):
    write_example(places[1], "a")
    assert write_example(places[0], "a") == example_folder("a")


def test_an_unknown_example_is_named_beside_those_that_there_are(places):
    with pytest.raises(ValueError, match=r"^no example model 'c'; there are: none$"):
        example_folder("c")
    write_example(places[0], "a")
    write_example(places[1], "b")
    with pytest.raises(ValueError, match=r"^no example model 'c'; there are: a, b$"):
        example_folder("c")
