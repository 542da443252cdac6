"""Folders of the trained example models, of a checkout or of an installed package."""

from pathlib import Path

__all__ = ["example_folder", "example_names"]

PLACES = (Path(__file__).parent / "examples", Path(__file__).parents[1] / "examples")
"""Where examples may be: in an installed package, and in a checkout."""


def example_folder(name: str = "mimo-tiny") -> Path:
    """Return the folder of an example model, which `load_model` takes.

    Parameters
    ----------
    name
        Name of the example.

    Returns
    -------
    Path
        Folder with config.json, weights, tokenizer and chat template.

    Raises
    ------
    ValueError
        If there is no such example; the message lists those that there are.

    Examples
    --------
    >>> example_folder("mimo-tiny").name
    'mimo-tiny'
    """
    folders = _folders()
    if name not in folders:
        raise ValueError(f"no example model {name!r}; there are: {', '.join(folders) or 'none'}")
    return folders[name]


def example_names() -> tuple[str, ...]:
    """Return the names of the example models."""
    return tuple(_folders())


def _folders() -> dict[str, Path]:
    """Return each folder with a config.json by its name; of two, that of the package."""
    configs = [path for place in reversed(PLACES) for path in place.glob("*/config.json")]
    folders = {path.parent.name: path.parent for path in configs}
    return dict(sorted(folders.items()))
