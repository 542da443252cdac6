"""run_example.py with the trained example on every backend: each gives the text of NumPy."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from mimo_v2_flash import example_folder
from tests.support.neuron_stand_ins import variables
from tests.support.processes import ROOT, ended, free_port, start

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax")
pytestmark = pytest.mark.nkipy

EXAMPLE = example_folder()
GENERATE = ("--mode", "generate", "--prompt", "The list type", "--temperature", "0")
SIZES = ("--context", "256", "--cache-dtype", "float32", "--activation-dtype", "float32")
LIMIT = 500  # seconds; a test that needs them has failed


def ran(*arguments: object, ranks: int = 1, **env: str) -> subprocess.CompletedProcess[str]:
    torchrun = ("-m", "torch.distributed.run", f"--nproc-per-node={ranks}")
    launch = (*torchrun, "--master-addr=127.0.0.1", f"--master-port={free_port()}")
    return subprocess.run(
        [sys.executable, *(launch if ranks > 1 else ()), "run_example.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | env,
        timeout=LIMIT,
    )


def written(*arguments: object, tokens: int = 100, ranks: int = 1, **env: str) -> str:
    done = ran(*GENERATE, "--max-new-tokens", tokens, *arguments, ranks=ranks, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def neuron(folder) -> tuple[object, ...]:
    return ("--backend", "neuron", "--compile-cache", folder, *SIZES)


@pytest.fixture(scope="module")
def expected() -> str:
    return written()


def test_100_tokens_on_xla(expected):
    assert written("--backend", "xla", *SIZES) == expected


def test_100_tokens_on_neurons_stand_ins(expected, tmp_path):
    assert written(*neuron(tmp_path / "programs"), **variables()) == expected


@pytest.mark.parametrize("heads", [4, 2], ids=["heads", "heads and rows"])
def test_4_processes_have_the_text_of_one_and_compile_each_program_once(heads, tmp_path):
    calls, folder = tmp_path / "calls", tmp_path / "programs"
    plan = ("--expert-parallel", 4, "--tensor-parallel", heads)
    env = variables() | {"NEURONX_CC_CALLS": str(calls)}
    root_comm = {"NEURON_RT_ROOT_COMM_ID": f"127.0.0.1:{free_port()}"}
    text = written(*neuron(folder), *plan, tokens=12, ranks=4, **env, **root_comm)
    assert text == written(tokens=12)
    compiled = Counter(calls.read_text().split())
    assert set(compiled.values()) == {1}
    assert set(compiled) == {path.name for path in folder.iterdir() if path.is_dir()}


def test_a_deployment_on_two_machines(tmp_path):
    """Shards for Trainium2, programs compiled before, two machines of two ranks that skip it."""
    shards, folder = tmp_path / "shards", tmp_path / "programs"
    plan = ("--expert-parallel", "4", "--tensor-parallel", "4")
    store = ("--checkpoint", str(EXAMPLE), "--output", str(shards), "--target", "trainium2", *plan)
    assert ended([start(["prepare_weights.py", *store])]).codes == [0]
    for file in EXAMPLE.glob("*token*"):
        (shards / file.name).write_bytes(file.read_bytes())

    of_shards = (*plan, "--model", str(shards), *map(str, neuron(folder)))
    compiled = ended([start(["run_example.py", "--compile-only", *of_shards], **variables())])
    assert "Compiled by neuronx-cc" in compiled.output

    port = free_port()
    each = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    each += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    what = ["run_example.py", *GENERATE, "--max-new-tokens", "12", "--skip-compile", *of_shards]
    env = variables() | {"NEURON_RT_ROOT_COMM_ID": f"127.0.0.1:{free_port()}"}
    env |= {"NEURONX_CC_REFUSES": "-"}
    done = ended([start([*each, f"--node-rank={node}", *what], **env) for node in (0, 1)])
    assert done.codes == [0, 0], done.output
    assert written(tokens=12) in done.output


def test_an_error_of_the_compiler_ends_all_4_processes(tmp_path):
    plan = ("--expert-parallel", 4, "--tensor-parallel", 4)
    env = variables() | {"NEURONX_CC_REFUSES": "decoder"}
    root_comm = {"NEURON_RT_ROOT_COMM_ID": f"127.0.0.1:{free_port()}"}
    done = ran(*GENERATE, *neuron(tmp_path / "programs"), *plan, ranks=4, **env, **root_comm)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "rank 0: program decoderlayer-" in done.stderr
    assert "NCC_EVRF029] Operation sort is not supported (log: " in done.stderr


def test_too_few_cores_are_one_line(tmp_path):
    env = variables() | {"LOCAL_WORLD_SIZE": "4", "STAND_IN_CORES": "2"}
    done = ran(*GENERATE, *neuron(tmp_path / "programs"), **env)
    expected = "run_example.py: 4 ranks on this machine need a NeuronCore each, 2 are visible"
    assert done.stderr.splitlines() == [expected]
    assert not (tmp_path / "programs").exists()


def test_without_the_sdk_the_install_page_is_said(tmp_path):
    done = ran(*GENERATE, *neuron(tmp_path / "programs"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("run_example.py: backend neuron needs spike: nkipy's runtime, and the")
    assert "https://awsdocs-neuron.readthedocs-hosted.com" in line
