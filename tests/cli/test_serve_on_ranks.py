"""`mimo serve` under torchrun: rank 0 answers for all, and a lost rank ends it with a status."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.support.processes import ROOT, free_port

pytestmark = pytest.mark.distributed
BODY = {"model": "mimo-tiny", "prompt": "The list", "max_tokens": 4, "temperature": 0}


@contextmanager
def serving():
    """Serve on two ranks; yield the URL, the launcher and the process of rank 1."""
    launch = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1")
    command = (*launch, f"--master-port={free_port()}", "-m", "mimo_v2_flash", "serve")
    sizes = ("--port=0", "--expert-parallel=2", "--max-length=64", "--drain-seconds=5")
    with subprocess.Popen(
        [sys.executable, *command, *sizes],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ) as run:
        match = None
        while match is None:
            line = run.stderr.readline()
            assert line, "the server ended"
            match = re.search(r"is served at (http://\S+)/v1", line)
        children = psutil.Process(run.pid).children()
        (other,) = [child for child in children if child.environ().get("RANK") == "1"]
        try:
            yield match[1], run, other
        finally:
            run.kill()


def test_rank_0_answers_for_all_and_drains():
    with serving() as (url, run, _):
        answer = httpx.post(f"{url}/v1/completions", json=BODY, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 4
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)


def test_a_lost_rank_ends_requests_and_the_server():
    with serving() as (url, run, other):
        other.send_signal(signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises((httpx.HTTPError, AssertionError)):
            for _ in range(100):
                answer = httpx.post(f"{url}/v1/completions", json=BODY, timeout=60)
                assert answer.status_code == 200
        run.communicate(timeout=60)
        assert run.returncode != 0
        assert time.monotonic() - start < 60
