"""The scripts on ranks that torchrun started: only rank 0 writes, and as a single rank would."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, free_port
from tests.support.reports import amounts
from tests.support.shipped import FOLDER

pytestmark = pytest.mark.distributed
TORCHRUN = ("-m", "torch.distributed.run", "--master-addr=127.0.0.1")
GENERATE = (
    "--mode",
    "generate",
    "--seed",
    "0",
    "--max-new-tokens",
    "12",
    "--prompt",
    "The list is",
)
SPLITS = {
    2: ("--expert-parallel", "2", "--tensor-parallel", "2"),
    4: ("--expert-parallel", "4", "--tensor-parallel", "2"),
    8: ("--expert-parallel", "8",),
}  # fmt: skip


def ran(*arguments: object, ranks: int = 1, status: int = 0) -> tuple[str, str]:
    """Return stdout and stderr of run_example.py."""
    launch = (*TORCHRUN, f"--nproc-per-node={ranks}", f"--master-port={free_port()}")
    done = subprocess.run(
        [sys.executable, *(launch if ranks > 1 else ()), "run_example.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=240,
    )
    assert (done.returncode != 0) == (status != 0), done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def alone() -> tuple[str, str]:
    return ran(*GENERATE)


@pytest.mark.parametrize("ranks", SPLITS)
def test_the_text_is_that_of_one_rank(alone, ranks):
    out, err = ran(*GENERATE, *SPLITS[ranks], ranks=ranks)
    assert out == alone[0]
    assert err.count("Stopped by") == err.count(f"Experts on {ranks} ranks") == 1
    for row in ("prompt, new tokens", "experts touched"):
        assert amounts(err)[row] == amounts(alone[1])[row]
    assert re.search(
        r"\(token, expert\) pairs: routed, dropped +[\d,]+, 0\n", err.replace(" \n", "\n")
    )


def test_the_answers_to_a_prompt_file_are_those_of_one_rank(tmp_path):
    prompts = ["The list is", "A set is", "The list is", "In Python"]
    entries = [{"prompt": text, "seed": seed} for seed, text in enumerate(prompts)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    command = "--mode", "generate", "--prompt-file", file, "--max-new-tokens", "9"
    sampled = (*command, "--temperature", "0.8", "--max-sequences", "3")
    alone, _ = ran(*sampled)
    out, err = ran(*sampled, *SPLITS[4], ranks=4)
    assert out == alone
    assert amounts(err)["prompts, errors"] == "4, 0"
    assert err.count("prompts, errors") == 1


def test_json_is_one_object_of_rank_0_with_what_was_sent():
    out, err = ran(*GENERATE, *SPLITS[4], "--json", ranks=4)
    dispatch = json.loads(out)["dispatch"]["all_gather"]
    assert dispatch["routed_pairs"] == dispatch["computed_pairs"] > 0
    assert dispatch["sent_bytes"] >= dispatch["lower_bound_bytes"] > 0
    assert err.count("Stopped by") == 1


def test_bits_per_byte_are_those_of_one_rank(tmp_path):
    (tmp_path / "text").write_text((ROOT / "LICENSE").read_text()[:1500])
    evaluate = "--mode", "evaluate", "--text", tmp_path / "text"
    one, _ = ran(*evaluate)
    two, _ = ran(*evaluate, *SPLITS[2], ranks=2)
    assert amounts(two)["bits per byte"] == amounts(one)["bits per byte"]
    assert two.count("bits per byte") == 1


def test_shards_write_the_same_text_and_another_plan_is_refused(alone, tmp_path):
    prepare = "--checkpoint", FOLDER, "--output", tmp_path, *SPLITS[4]
    command = [sys.executable, "prepare_weights.py", *map(str, prepare)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    for file in Path(FOLDER).iterdir():
        if file.name.startswith(("tokenizer", "generation_config", "chat_template")):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    out, _ = ran(*GENERATE, "--model", tmp_path, *SPLITS[4], ranks=4)
    assert out == alone[0]
    _, err = ran(*GENERATE, "--model", tmp_path, *SPLITS[2], ranks=2, status=1)
    message = (
        "holds shards of expert_parallel 4 and tensor_parallel 2, requested is expert_parallel 2"
    )
    assert re.search(rf"run_example.py: rank [01]: .*{message}", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (*GENERATE, "--expert-parallel", 3),
            "rank 0: --expert-parallel 3: allowed is a divisor",
        ),
        (
            (*GENERATE, "--expert-parallel", 1, "--data-parallel", 1),
            "--data-parallel 1 needs world size 1, but the world size is 2",
        ),
    ],
)
def test_a_mistake_is_said_on_every_rank(arguments, message):
    assert message in ran(*arguments, ranks=2, status=1)[1]


def test_ranks_that_were_not_started_are_named(alone):
    _, err = ran(*GENERATE, "--expert-parallel", 8, status=2)
    assert err == (
        "run_example.py: --expert-parallel 8 --tensor-parallel 1 --data-parallel 8 needs world "
        "size 8, but the world size is 1: start it with torchrun --nproc-per-node 8\n"
    )
