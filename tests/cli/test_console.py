"""Console output is plain text unless it goes to a terminal."""

import numpy as np

from mimo_v2_flash.cli.console import amount, console, peak_memory, progress, table


def test_progress_is_one_plain_line_when_it_is_done(capsys):
    with progress("counting", total=3) as advance:
        advance(3)
        assert capsys.readouterr() == ("", "")
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("counting: ")
    assert stderr.endswith(" s\n")
    assert "\x1b" not in stderr


def test_a_line_is_whole_with_what_its_names_have_in_brackets(capsys):
    name = "/a[bold]" * 20 + "/text[1].txt"
    with progress(name, total=1) as advance:
        advance(1)
    console().print(f"{name}: complete")
    stdout, stderr = capsys.readouterr()
    assert stdout == f"{name}: complete\n"
    assert stderr.startswith(f"{name}: 0.")
    assert stderr.count("\n") == 1


def test_a_table_is_plain_text(capsys):
    report = table("Title", ("word",), ("number",))
    report.add_row("a", "1")
    console().print(report)
    stdout = capsys.readouterr().out
    assert "Title" in stdout
    assert "\x1b" not in stdout


def test_bytes_are_in_powers_of_a_thousand():
    assert amount(3_200_000_000) == "3.2 GB"


def test_peak_memory_sees_an_allocation():
    before = peak_memory()
    size = before + 50_000_000
    np.ones(size // 8)
    assert peak_memory() > before
