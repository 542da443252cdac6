"""Whatever the input is, a command ends with an answer, or with status 2 and one line.

`make test` runs 2,000 cases, always the same ones. `make fuzz` draws 50,000 others each time.
"""

import ast
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.fuzz import BASES, VARIABLES, Case, Ending, cases, is_clean, run, write_folder

ROOT = Path(__file__).parents[1]
DRAWN = os.environ.get("FUZZ_CASES")
CASES, PROCESSES = int(DRAWN or 2000), 100
AS_PROCESSES = [name for name in BASES if name != "random"]  # which has the model's true widths

fuzzed = partial(
    settings,
    derandomize=DRAWN is None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Return a folder, and its files that can be damaged."""
    folder = tmp_path_factory.mktemp("fuzz") / "template"
    folder.mkdir()
    return folder, write_folder(folder)


@fuzzed(max_examples=CASES)
@given(data=st.data())
def test_every_run_ends_with_an_answer_or_with_one_line(template, data):
    folder, files = template
    case = data.draw(cases(files))
    ending = run(case, folder)
    assert is_clean(ending), (case, ending)


@pytest.mark.distributed
@fuzzed(max_examples=PROCESSES)
@given(data=st.data())
def test_a_process_of_its_own_ends_so_as_well(template, data):
    folder, files = template
    case = data.draw(cases(files, AS_PROCESSES))
    ending = run(case, folder, in_subprocess)
    assert is_clean(ending), (case, ending)


def in_subprocess(case: Case) -> Ending:
    """Run a case as a user does; the folder is the working directory."""
    variables = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "mimo_v2_flash", *case.words],
        env=os.environ | variables | case.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Ending(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(0, "text", "progress: 1 s\n"), True),
        (Ending(1, "no", ""), True),
        (Ending(2, "", "mimo plan: --context 0: no\n"), True),
        (Ending(2, "", "progress: 1 s\nmimo plan: --context 0: no\n"), True),
        (Ending(2, "", "mimo: warning: odd\nmimo plan: --context 0: no\n"), True),
        (Ending(2, "", ""), False),
        (Ending(2, "", "mimo plan: two\nlines\n"), False),
        (Ending(2, "", "themimo plan: no\n"), False),
        (Ending(2, "", "mimo plan: \n"), False),
        (Ending(70, "", "mimo plan: a fault of the program: KeyError: 'x'\n"), False),
        (Ending(1, "", "Traceback (most recent call last):\n"), False),
        (Ending(-11, "", ""), False),
    ],
)
def test_what_the_fuzz_takes_for_an_end(ending, expected):
    assert is_clean(ending) is expected


def test_the_fuzz_draws_every_variable_that_the_package_reads():
    """Those that a launcher, this project or the Neuron runtime has named, wherever it is read."""
    prefixes = ("WORLD_", "RANK", "LOCAL_", "MASTER_", "TORCHELASTIC_", "GLOO_", "MIMO_", "OMP_")
    package = (ROOT / "mimo_v2_flash").rglob("*.py")
    strings = {
        node.value
        for path in package
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    read = {text for text in strings if re.fullmatch(r"[A-Z]+(_[A-Z]+)*", text)}
    named = {text for text in read if text.startswith((*prefixes, "NEURON_RT", "NEURON_LOG"))}
    assert {"RANK", "GLOO_SOCKET_IFNAME"} <= named <= {*VARIABLES}
