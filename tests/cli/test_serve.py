"""`mimo serve` as a process: it says where it is, answers, and ends when it is asked to."""

import json
import re
import signal
import socket
import subprocess
import sys
from itertools import count
from threading import Thread

import httpx
import pytest

from mimo_v2_flash.cli import serve
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.engine.worker import Worker

COMMAND = [sys.executable, "-m", "mimo_v2_flash", "serve", "--port", "0", "--max-length", "128"]


@pytest.fixture(scope="module")
def served():
    """Run the server; yield its URL, then end it and check how it ended."""
    command = [*COMMAND, "--api-key", "secret", "--served-model-name", "m", "--draft-tokens", "2"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        match = None
        while match is None:
            line = run.stderr.readline()
            assert line, "the server ended"
            match = re.search(r"m is served at (http://\S+)/v1, .* in float32 compute", line)
        yield match[1]
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (0, "")
    lines = [json.loads(line) for line in err.splitlines()]
    assert {line["status"] for line in lines} <= {200, 401}
    assert "a secret text" not in err


def test_it_answers_who_has_the_key(served):
    body = {"model": "m", "prompt": "a secret text", "max_tokens": 2}
    headers = {"authorization": "Bearer secret"}
    answer = httpx.post(f"{served}/v1/completions", json=body, headers=headers, timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 2
    assert httpx.post(f"{served}/v1/completions", json=body).status_code == 401


def test_it_counts_the_drafts_of_the_engine(served):
    headers = {"authorization": "Bearer secret"}
    body = {"model": "m", "prompt": "a secret text", "max_tokens": 9, "temperature": 0}
    assert httpx.post(f"{served}/v1/completions", json=body, headers=headers, timeout=60)
    text = httpx.get(f"{served}/metrics", headers=headers).text
    counts = {
        name: float(re.search(rf"^vllm:spec_decode_num_{name}_total{{.*}} (\S+)$", text, re.M)[1])
        for name in ("drafts", "draft_tokens", "accepted_tokens")
    }
    assert counts["drafts"] < counts["draft_tokens"] <= 2 * counts["drafts"]
    assert 0 < counts["accepted_tokens"] < counts["draft_tokens"]


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "in use" in line
    assert str(port) in line


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("mimo_v2_flash.serving.a")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'serve needs uvicorn, which is not installed: pip install "mimo-v2-flash[serve]"' in line


@pytest.mark.parametrize("step", [0, 5])
def test_an_error_of_the_model_ends_it_and_is_one_line(step, monkeypatch, capsys):
    steps, run, requests = count(), Worker.step, []

    def fail(worker, plan):
        if next(steps) >= step:
            raise ArithmeticError("the device is gone")
        return run(worker, plan)

    def ask(name, url, _):
        body = {"model": name, "prompt": "The list", "max_tokens": 9}
        requests.append(
            Thread(target=httpx.post, args=[f"{url}/v1/completions"], kwargs={"json": body})
        )
        requests[0].start()

    monkeypatch.setattr(Worker, "step", fail)
    monkeypatch.setattr(serve, "_announce", ask)
    assert main(["serve", "--port", "0", "--max-length", "64"]) == 70
    for thread in requests:
        thread.join(30)
    *log, line = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "mimo serve: a fault of the program: ArithmeticError: the device is gone"
    )
    assert [json.loads(request)["status"] for request in log] == [500] * len(requests)
    assert len(requests) == bool(step)  # nobody is told of a server that fails as it warms up


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nowhere"], "--model nowhere: no such folder"),
        (["--prefix-cache", "lots"], "--prefix-cache is 'lots'"),
        (["--port", "99999"], "--port"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
    ],
)
def test_options_that_make_no_sense_are_one_line(capsys, options, words):
    assert main(["serve", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
