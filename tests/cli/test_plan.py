"""--mode plan: any config on any number of devices, the verdict, and refusals."""

import json

import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.cli import plan
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.config_presets import PRESETS
from tests.support.config_files import SMALL


def run(*words: str) -> int:
    return main(["plan", *words])


def test_mimo_on_one_device_does_not_fit(capsys):
    assert run("--memory", "24GB") == 1
    stdout = " ".join(capsys.readouterr().out.split())
    assert "experts 302.9 GB 302.9 GB" in stdout
    assert "MTP heads 1.2 GB 1.2 GB" in stdout
    assert "more than 24.0 GB (weights 313.1 GB" in stdout
    assert "The weights alone are too much." in stdout
    assert "Sent by all devices" not in stdout


def test_mimo_on_32_devices_fits_and_says_what_is_sent(capsys):
    words = "--expert-parallel 32 --tensor-parallel 4 --batch-size 32 --context 32768"
    assert run(*words.split()) == 0
    stdout = " ".join(capsys.readouterr().out.split())
    assert (
        "32 devices: expert parallel 32, tensor parallel 4, data parallel 8; 32 sequences" in stdout
    )
    assert "sequences of 32768 tokens, prefilled 512 at a time" in stdout
    assert "experts 9.5 GB 302.9 GB" in stdout
    assert "KV cache, bfloat16 786.2 MB 25.2 GB" in stdout
    assert "prefill 7.04 230.7 kB 231.1 kB 1.0 MB" in stdout
    assert "It fits: 14.7 GB of 24.0 GB, 9.3 GB are free." in stdout


def test_drafts_take_caches_of_mtp_heads_and_more_logits(tmp_path, capsys):
    devices = []
    for drafts in (0, 2):
        file = tmp_path / f"{drafts}.json"
        run("--context", "1000", "--draft-tokens", str(drafts), "--json", str(file))
        devices += json.loads(file.read_text())["devices"]
    assert "decoded with 2 draft tokens each" in " ".join(capsys.readouterr().out.split())
    none, two = devices
    assert none["weights"] == two["weights"]
    slots, position = 129 + 3 + 1, 4  # with the trash row
    per_slot = 2 * (8 * 320 * 2 + position) + 4096 * 2 + position  # two heads, a hidden state
    assert two["cache"] - none["cache"] == slots * per_slot
    assert two["buffers"] == none["buffers"] | {"logits": 3 * none["buffers"]["logits"]}


def test_a_cache_of_8_bits_is_half_of_one_in_bfloat16(tmp_path, capsys):
    file = tmp_path / "plan.json"
    words = "--expert-parallel 32 --tensor-parallel 4 --batch-size 32 --context 32768"
    assert run(*words.split(), "--cache-dtype", "fp8", "--json", str(file)) == 0
    assert "KV cache, fp8 400.4 MB" in " ".join(capsys.readouterr().out.split())
    assert json.loads(file.read_text())["load"]["cache"] == "fp8"


def test_a_larger_device_is_another_answer(capsys):
    words = "--expert-parallel 32 --tensor-parallel 4 --batch-size 256 --context 32768"
    options = [*words.split(), "--dtype", "bfloat16"]
    assert run(*options) == 1
    stdout = " ".join(capsys.readouterr().out.split())
    assert "(weights 23.7 GB, cache 6.3 GB, buffers 5.4 GB). A chip has 96.0 GB." in stdout
    assert run(*options, "--memory", "96GB") == 0


@pytest.mark.parametrize(
    ("name", "experts"),
    [
        ("v2-flash", "302.9 GB"),
        ("v2.5", "302.9 GB"),
        ("v2.5-fp4", "160.9 GB"),
        ("v2.5-pro", "1.0 TB"),
        ("v2.6-flash", "160.9 GB"),
        ("v2.6-pro", "531.4 GB"),
    ],
)
def test_a_published_model_without_files(name, experts, capsys, recwarn):
    assert run("--model", name, "--memory", "24GB") == 1
    assert f"experts {experts} {experts}" in " ".join(capsys.readouterr().out.split())
    assert not recwarn.list


def test_a_name_that_no_model_has_is_refused_with_all_names(capsys):
    assert run("--model", "v2.7") == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert stderr.startswith("mimo plan: v2.7: no such file; give config.json or the folder")
    assert stderr.endswith(f", or a name: {', '.join(PRESETS)}\n")


@pytest.mark.parametrize("form", ["file", "folder"])
def test_any_config_on_disk(tmp_path, form, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SMALL.to_dict()))
    assert run("--model", str(file if form == "file" else tmp_path), "--context", "64") == 0
    assert "It fits" in capsys.readouterr().out


def test_all_numbers_are_written_and_the_fullest_device_is_shown(tmp_path, capsys):
    file = tmp_path / "plan.json"
    run("--expert-parallel", "4", "--context", "100", "--json", str(file), "--memory", "90 GiB")
    numbers = json.loads(file.read_text())
    assert numbers["plan"] == {
        "expert_parallel": 4, "tensor_parallel": 1, "data_parallel": 4, "devices": 4,
    }  # fmt: skip
    assert numbers["load"] == {
        "batch_size": 1, "context": 100, "step": 100, "weights": "fp8",
        "cache": "bfloat16", "stream": "float32", "mtp_heads": 3, "draft_tokens": 0,
    }  # fmt: skip
    assert (numbers["memory"], numbers["fits"]) == (90 * 2**30, True)
    assert [device["weights"]["experts"] for device in numbers["devices"]] == [75_717_279_744] * 4
    caches = [device["cache"] for device in numbers["devices"]]
    assert caches[0] == caches[1] == caches[2] < caches[3]  # which has the only sequence
    shown = " ".join(capsys.readouterr().out.split())
    assert "KV cache, bfloat16 22.5 MB 23.2 MB" in shown
    assert set(numbers["sent_per_token_and_layer"]) == {"prefill", "decode"}


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("1.5 TB", 15 * 10**11), ("80GiB", 80 * 2**30), ("12", 12)],
)
def test_sizes_of_memory(text, size):
    assert plan.memory_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "24 gigabytes", "-1GB", "1e9", "24GBx", "0GB", "0.0001", "9" * 400, "9" * 19]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"--memory '.*: allowed is a size such as 24GB or 80GiB"):
        plan.memory_size(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--context 300000", "--context 300000: allowed is 1 to 262144 tokens"),
        ("--context 0", "argument --context: '0' is not an integer above 0"),
        ("--step 5000", "--step 5000: allowed is 1 to the context, 4096"),
        ("--batch-size 0", "argument --batch-size: '0' is not an integer above 0"),
        (
            "--draft-tokens 4",
            "--draft-tokens 4: allowed is 0 to 3, with 3 MTP heads and a step of 512",
        ),
        (
            "--draft-tokens 3 --step 3",
            "--draft-tokens 3: allowed is 0 to 2, with 3 MTP heads and a step of 3",
        ),
        ("--expert-parallel 7", "--expert-parallel 7: allowed is a divisor of 256 experts"),
    ],
)
def test_impossible_plans_and_loads_name_the_option(words, message, capsys):
    assert run(*words.split()) == 2
    assert capsys.readouterr() == ("", f"mimo plan: {message}\n")


@pytest.mark.parametrize("length", [64, 3000, 4096, 5000])
def test_the_default_context_is_one_that_the_model_has(length, tmp_path, capsys):
    config = MiMoConfig(max_position_embeddings=length)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert main(["plan", "--model", str(tmp_path), "--memory", "1TB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["load"]["context"] == min(length, 4096)
