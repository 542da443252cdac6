"""Training text: the sources of Python's documentation as prose, with a held-out part.

Source: the folder `_sources` of the documentation of Python 3.11, as Debian's package
`python3.11-doc` holds it (`usr/share/doc/python3.11/html/_sources`). Licence: PSF-2.0, examples
0BSD; it may be redistributed.
"""

import re
from hashlib import sha256
from pathlib import Path

__all__ = ["HELD_OUT", "is_held_out", "prose", "split"]

HELD_OUT = 16  # one document of this many is held out, by a hash of its name
REPLACEMENTS = (  # reStructuredText markup, and the text that replaces it
    (
        r"^\.\. (index|module|moduleauthor|sectionauthor|_|highlight|\w+:: *$).*\n(?:[ \t]+.*\n)*",
        "",
    ),
    (r"^( *)\.\. (?:\w+:)?(?:deprecated-removed|deprecated|version\w+):: *", r"\1Version "),
    (r"^( *)\.\. (?:\w+:)?(\w+):: *", r"\1\2 "),
    (r"^ *:(?:platform|synopsis|noindex|name|class|no\w+)\w*:.*\n", ""),
    (r":[\w:+-]+:`!?~?([^`<]*?)\s*(?:<[^`>]*>)?`", r"\1"),
    (r"`([^`<]+?)\s*<[^`>]*>`_{1,2}", r"\1"),
    (r"``([^`]+)``", r"\1"),
    (r"(?<!\*)\*\*([^*\n]+)\*\*(?!\*)|(?<![\w*])\*([^*\s][^*\n]*)\*(?![\w*])", r"\1\2"),
    (r"^([=*#~^\"'+.-])\1{3,} *\n", ""),
    (r"::[ \t]*$", ":"),
    (r"[ \t]+$", ""),
    (r"\n{3,}", "\n\n"),
)


def split(folder: Path) -> tuple[list[str], list[str]]:
    """Return the documents to train on and those held out, as prose.

    Raises
    ------
    ValueError
        If there is no `*.rst.txt` in `folder`.
    """
    files = sorted(folder.rglob("*.rst.txt"))
    if not files:
        raise ValueError(f"{folder} has no *.rst.txt: expected the _sources of python3.11-doc")
    parts: tuple[list[str], list[str]] = ([], [])
    for file in files:
        name = file.relative_to(folder).as_posix()
        parts[is_held_out(name)].append(prose(file.read_text(encoding="utf-8")))
    return parts


def is_held_out(name: str, share: int = HELD_OUT) -> bool:
    """Return whether a thing of this name is held out: one in `share`, by a hash."""
    return int.from_bytes(sha256(name.encode()).digest()[:4], "big") % share == 0


def prose(source: str) -> str:
    """Return the text of a document without most of its markup."""
    for pattern, replacement in REPLACEMENTS:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    return source.strip() + "\n"
