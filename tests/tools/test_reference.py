"""Reference pages have what the code has: names, options, fields, metrics, messages."""

import argparse
import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

import mimo_v2_flash
from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.parser import CommandParser
from mimo_v2_flash.serving import metrics
from tools.reference import PAGES, write_reference
from tools.reference.api import api_pages, public_modules
from tools.reference.docstring import docstring_text
from tools.reference.errors import messages
from tools.reference.fields import fields_of
from tools.reference.markdown import code, escape_html, table

ROOT = Path(__file__).parents[2]
DESCRIBED = re.compile(r"^:::+\{py:(\w+)\} (\w+)(.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def described():
    """Return kind and signature of every name that a page describes."""
    text = "".join(api_pages().values())
    return {name: (kind, rest) for kind, name, rest in DESCRIBED.findall(text)}


def test_every_public_name_is_described(described):
    offered = {name for module in public_modules() for name in module.names}
    assert len(offered) > 900
    assert offered - described.keys() == set()


@pytest.mark.parametrize("name", mimo_v2_flash.__all__)
def test_what_the_package_exports_has_its_signature(described, name):
    exported = getattr(mimo_v2_flash, name)
    kind, rest = described[name]
    assert kind == ("class" if isinstance(exported, type) else "function")
    assert rest.startswith("(") or kind == "class"


def test_a_page_names_every_method_and_no_private_one():
    page = api_pages()["mimo_v2_flash.engine"]
    engine = page[page.index("{py:class} Engine(") :].partition("\n::::\n")[0]
    methods = set(re.findall(r"\{py:(?:method|property)\} (\w+)", engine))
    assert methods == {name for name in vars(mimo_v2_flash.Engine) if not name.startswith("_")}
    assert "self" not in re.findall(r"\{py:method\} \w+\((\w*)", engine)


def test_every_option_is_on_the_page_of_commands():
    page = PAGES["commands"]()
    for name, command in COMMANDS.items():
        section = page[page.index(f"## mimo {name}\n") :].partition("\n## ")[0]
        for action in CommandParser(prog=f"mimo {name}", command=command).load()._actions:
            if action.help != argparse.SUPPRESS:
                value = action.metavar or next(iter(action.choices or [action.dest.upper()]))
                names = action.option_strings or [value]
                assert [name for name in names if name not in section] == []


def test_every_field_is_on_the_page_of_the_config():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", PAGES["config"](), re.MULTILINE)
    assert [name for name, _ in rows] == [field.name for field in fields(MiMoConfig)]
    assert [name for name, meaning in rows if not meaning.strip()] == []


def test_every_metric_is_on_its_page():
    source = Path(metrics.__file__).read_text()
    names = re.findall(r'"((?:vllm|mimo):\w+)"', source)
    names += [f"vllm:request_{name}_seconds" for name in metrics.PHASES]
    names += [metrics.DRAFTS + end for end in re.findall(r"\{DRAFTS\}(\w+)", source)]
    page = PAGES["metrics"]()
    assert len(names) > 20
    assert {name for name in names if f"| `{name}" not in page} == set()
    assert "_created" not in page


def test_a_message_is_there_with_what_is_filled_in():
    by_text = {text: (kind, place) for text, kind, place in messages()}
    text = "no example model {name!r}; there are: {', '.join(folders) or 'none'}"
    assert by_text[text.replace("!r", "")] == ("ValueError", "example_folders")
    assert len(by_text) > 300


def test_pages_replace_those_that_were_there(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "old.md").write_text("")
    write_reference(tmp_path / "pages")
    names = {str(path.relative_to(tmp_path / "pages")) for path in tmp_path.rglob("*.md")}
    assert {f"{name}.md" for name in PAGES} | {"api/index.md", "api/mimo_v2_flash.md"} <= names
    assert "old.md" not in names


DOCSTRING = """Return the sum.

It is exact.

Parameters
----------
a, b : int
    Summands, `<` included.
rest
    More <of> them.

Raises
------
ValueError
    There is none.

Examples
--------
>>> total(1, 2)
3
"""
MARKDOWN = """Return the sum.

It is exact.

**Parameters**

- `a, b` : `int`

  Summands, `<` included.

- `rest`

  More &lt;of> them.

**Raises**

- `ValueError`

  There is none.

**Examples**

```pycon
>>> total(1, 2)
3
```
"""


def test_sections_of_a_docstring_are_lists():
    assert re.sub(r"\n{3,}", "\n\n", docstring_text(DOCSTRING)).rstrip() == MARKDOWN.rstrip()


def test_a_field_has_its_comment_and_its_default():
    source = "class A:\n    a: int  # tokens\n    b: str = 'x'\n    _c: int = 1\n"
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.ClassDef)
    assert fields_of(node, source) == [("a", "int", "", "tokens"), ("b", "str", "'x'", "")]


def test_characters_of_markdown_are_kept():
    assert table(["a|b"], [["c\nd"]]) == "| a\\|b |\n| --- |\n| c d |\n"
    assert (code("a"), code("a`b"), code("``")) == ("`a`", "`` a`b ``", "``` `` ```")
    assert escape_html("a < b <c> `<d>`") == "a < b &lt;c> `<d>`"
