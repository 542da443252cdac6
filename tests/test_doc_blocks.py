"""Every bash and python block of README and docs runs as it is written, on examples/mimo-tiny."""

import re
import shlex
from collections.abc import Iterator

import pytest

import prepare_weights
import run_example
from mimo_v2_flash.cli import main
from tests.support.doc_blocks import COMMENT, ROOT, SHARED, blocks_of, make_checkout, run_blocks

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "generated" not in path.parts  # by `make docs`
}
PARSERS = {
    "mimo": main._parse,
    "run_example.py": run_example._parse,
    "prepare_weights.py": prepare_weights._parse,
}
every_page = pytest.mark.parametrize("page", [name for name in PAGES if blocks_of(PAGES[name])])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a function from a page to its folder and variables, the same each time."""
    folders: dict[str, tuple] = {}

    def folder_of(page: str) -> tuple:
        if page not in folders:
            folder = tmp_path_factory.mktemp("page")
            folders[page] = folder, make_checkout(folder)
        return folders[page]

    return folder_of


@every_page
def test_every_block_of_a_page_runs(page, checkout, monkeypatch):
    run_blocks(PAGES[page], *checkout(page), monkeypatch)


@every_page
def test_a_block_is_bash_or_python(page):
    assert {block.language for block in blocks_of(PAGES[page])} <= {"bash", "python"}


@pytest.mark.parametrize("page", PAGES)
def test_a_comment_is_before_a_block_and_has_a_reason(page):
    reasons = [block.reason for block in blocks_of(PAGES[page]) if block.reason is not None]
    assert len(COMMENT.findall(PAGES[page])) == PAGES[page].count("<!-- not") == len(reasons)
    assert all(len(reason.split()) > 2 for reason in reasons)


def commands(source: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the program and the arguments of each command of this project in a block."""
    for line in source.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            if word in PARSERS and "..." not in words:
                end = next((n for n, w in enumerate(words) if w in {"|", ">", "&&"}), len(words))
                yield word, words[index + 1 : end]


@every_page
def test_commands_that_are_not_run_have_options_that_exist(page):
    for block in blocks_of(PAGES[page]):
        if block.reason is not None and block.language == "bash":
            for program, arguments in commands(block.source):
                assert PARSERS[program](arguments).options, arguments


def test_blocks_are_run_and_not_run():
    blocks = [block for page in PAGES.values() for block in blocks_of(page)]
    run = [block.language for block in blocks if block.reason is None]
    assert run.count("bash") >= 6
    assert run.count("python") >= 2
    not_run = [block for block in blocks if block.reason is not None]
    assert sum(len(list(commands(block.source))) for block in not_run) >= 6


FAULTS = {
    "a command that fails": "```bash\nmimo plan --context 300000\n```\n",
    "an unknown option": "```bash\nmimo test --sed 1\n```\n",
    "an unknown program": "```bash\nmimmo test\n```\n",
    "the first of two": "```bash\nfalse\ntrue\n```\n",
    "the first of a pipe": "```bash\nfalse | true\n```\n",
    "an unset variable": "```bash\necho $FOLDER\n```\n",
    "an unknown name": "```python\nprint(absent)\n```\n",
    "a name of another block": "```python\na = 1\n```\n\n```python\nprint(a)\n```\n",
    "a comment not right before": "<!-- not run: because of that -->\n\n```bash\nfalse\n```\n",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_block_is_caught_and_its_line_named(fault, tmp_path, monkeypatch):
    text = f"# A page\n\nText.\n\n{FAULTS[fault]}"
    line = max(n for n, row in enumerate(text.splitlines(), 1) if re.match("```[a-z]", row))
    with pytest.raises(pytest.fail.Exception, match=rf"^line {line}: "):
        run_blocks(text, tmp_path, make_checkout(tmp_path), monkeypatch)


def test_blocks_share_a_folder_and_a_namespace_if_the_page_says_so(tmp_path, monkeypatch):
    text = f"""{SHARED}

```bash
mimo plan --context 64 --memory 1TB --json > plan.json
```

<!-- not run: it would fail -->
```bash
false
```

```python
import json
from pathlib import Path

plan = json.loads(Path("plan.json").read_text())
```

```python
assert plan["load"]["context"] == 64
```
"""
    assert run_blocks(text, tmp_path, make_checkout(tmp_path), monkeypatch) == 3
