"""A loaded model has the same programs whatever a prompt's length, in Python and as a command."""

import pytest

from mimo_v2_flash import MiMoConfig, load_model, model_loader
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.model_loader import build_model
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.config_files import SMALL
from tests.support.reports import run_mode
from tests.support.tiny_text import CONTEXT, write_text_checkpoint

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax")
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.costs.deployment import Deployment  # noqa: E402
from mimo_v2_flash.costs.step_programs import step_programs  # noqa: E402
from mimo_v2_flash.execution.program_recorder import ProgramRecorder  # noqa: E402
from mimo_v2_flash.execution.xla import XlaBackend  # noqa: E402

CHUNK = 16
GREEDY = {"max_new_tokens": 3, "temperature": 0}
ONE_OF_EACH_STEP = ([5], [5] * 3, [5] * 16)  # a token, up to four, a chunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("hub")).folder


@pytest.fixture(scope="module")
def run(folder):
    """Return a model on XLA, and its backend, after a prompt of each kind of step."""
    backend = XlaBackend()
    model = load_model(folder, backend=backend, max_step=CHUNK)
    for prompt in ONE_OF_EACH_STEP:
        model.generate([prompt], **GREEDY)
    return model, backend


def contents(programs) -> set[bytes]:
    return {program.module.SerializeToString(deterministic=True) for program in programs}


def test_a_prompt_of_another_length_needs_no_new_program(run, folder):
    model, backend = run
    known, numpy = len(backend.programs), load_model(folder)
    for length in (2, 4, 5, 15, 16, 17, 31, 47, CONTEXT - 2):
        prompt = [[*range(7, 7 + length)]]
        assert model.generate(prompt, **GREEDY) == numpy.generate(prompt, **GREEDY)
    assert len(backend.programs) == known


def test_the_command_compiles_the_same(run, folder, monkeypatch, capsys):
    """Its prompts are ten tokens and more, and it reports a cache of another length."""
    backend = XlaBackend()
    monkeypatch.setattr(model_loader, "get_backend", lambda _: backend)
    options = ["--model", folder, "--backend", "xla", "--chunk", CHUNK, "--temperature", 0]
    for prompt in ("the thin thing is there", "a", "the"):
        run_mode(capsys, "generate", *options, "--max-new-tokens", 3, "--prompt", prompt)
    programs = contents(backend.programs)
    assert programs
    assert programs <= contents(run[1].programs)


def listed(config: MiMoConfig, context: int, chunk: int) -> set[bytes]:
    """Return the programs that --compile-only makes for one sequence."""
    dtypes = "fp8", "float32", "float32"
    deployment = Deployment(config, ParallelConfig(), 1, context, chunk, *dtypes)
    return contents(called.traced for called in step_programs(deployment).programs.values())


def test_compile_only_lists_them_all(run, folder):
    needed = contents(run[1].programs)
    assert needed <= listed(MiMoConfig.from_pretrained(folder), CONTEXT, CHUNK)


def test_a_long_context_has_a_few_kv_lengths_for_all_prompts():
    """The model is recorded without computing; it attends to 256 or 500 slots."""
    recorder = ProgramRecorder()
    sizes = {"max_length": 500, "max_step": 64}
    model = build_model(random_weights(SMALL, seed=0), SMALL, backend=recorder, **sizes)
    for length in (1, 2, 5, 63, 64, 65, 100, 255, 256, 257, 300, 449, 497):
        model.generate([[5] * length], max_new_tokens=3, eos_token_id=())
    needed = contents(program.traced for program in recorder.programs)
    assert needed <= listed(SMALL, 500, 64)
    assert len(needed) > len(SMALL.layers)
