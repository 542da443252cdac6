"""`mimo plan` of a machine and of devices: described, measured, refused, and as JSON."""

import json

import pytest

from mimo_v2_flash.cli import machine_plan
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.costs.decode_time import DecodeRates
from mimo_v2_flash.cpu.thread_count import thread_count
from tests.support.shipped import FOLDER

TINY = ("--model", str(FOLDER), "--context", "64")


@pytest.fixture
def planned(capsys):
    """Return a function that plans, and returns the status and the numbers."""

    def plan(*words: str) -> tuple[int, dict]:
        capsys.readouterr()
        status = main(["plan", *TINY, *words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return plan


def speeds(numbers: dict) -> dict:
    return {p["weights"]: p["tokens_per_second"] for p in numbers["placements"]}


def test_this_machine_is_planned_for_without_a_word(planned):
    status, numbers = planned()
    assert (status, numbers["fits"]) == (0, True)
    assert set(speeds(numbers).values()) == {None}
    assert numbers["recommended"].startswith(f"mimo run -m {FOLDER}")


def test_twice_the_bandwidth_is_twice_the_speed(planned):
    slow, fast = (speeds(planned("--bandwidth", size)[1]) for size in ("10GB", "20GB"))
    assert slow.keys() == fast.keys()
    for name, speed in slow.items():
        assert fast[name] == pytest.approx(2 * speed)


def test_a_device_map_takes_what_fits(planned):
    whole = planned("--memory", "1GB")[1]["placements"][0]
    less = f"{(whole['needed_bytes'] - 1) // 1000 / 1000:.3f}MB"
    status, numbers = planned("--memory", less, "--device-map", "auto", "--disk", "1GB")
    assert (status, numbers["fits"]) == (0, True)
    assert "--isq" in numbers["recommended"]
    status, numbers = planned("--memory", "1MB", "--device-map", "auto")
    assert (status, numbers["fits"], numbers["recommended"]) == (1, False, None)
    assert "the least is" in numbers["reason"]


def test_formats_topologies_and_subsets_are_counted(planned):
    whole = planned()[1]["placements"][0]
    _, numbers = planned("--isq", "8")
    assert [each["weights"] for each in numbers["placements"]] == ["Q8_0"]
    _, numbers = planned("--expert-subset", "0-3")
    few = numbers["placements"][0]
    assert few["experts_bytes"] == whole["experts_bytes"] / 4
    _, numbers = planned("--topology", str(FOLDER.parents[1] / "topologies" / "isq.yml"))
    assert numbers["placements"][0]["weights"] == "by the topology"


def test_ranks_share_memory_and_bandwidth(planned):
    _, alone = planned("--memory", "1GB", "--bandwidth", "10GB")
    _, two = planned("--memory", "1GB", "--bandwidth", "10GB", "--ranks", "2")
    first, half = alone["placements"][0], two["placements"][0]
    assert half["experts_bytes"] == first["experts_bytes"] / 2
    assert half["tokens_per_second"] < first["tokens_per_second"]
    assert "torchrun --nproc-per-node 2 " in two["recommended"]


def test_a_larger_batch_and_context_take_more(planned):
    small = planned("--memory", "1GB")[1]
    large = planned("--memory", "1GB", "--context", "128", "--batch-size", "4")[1]
    assert large["sequence_bytes"] > small["sequence_bytes"]
    pairs = zip(small["placements"], large["placements"], strict=True)
    assert all(a["working_bytes"] < b["working_bytes"] for a, b in pairs)


def test_measured_rates_are_those_of_this_machine_scaled_to_the_cores(planned, monkeypatch):
    threads = thread_count().number
    rates = DecodeRates(1e9, 5.0, products={"fp8": 1e9}, experts={"fp8": 5e8})
    monkeypatch.setattr(machine_plan, "measure_decoding", lambda *_: rates)
    slow = speeds(planned("--measure")[1])
    fast = speeds(planned("--measure", "--cores", str(2 * threads))[1])
    bound = speeds(planned("--measure", "--cores", str(2 * threads), "--bandwidth", "1GB")[1])
    assert fast["as stored"] == pytest.approx(2 * slow["as stored"])
    assert slow["as stored"] < bound["as stored"] < fast["as stored"]


def test_sizes_for_devices_are_chosen(capsys):
    words = ["plan", "--devices", "trn2:64", "--context", "64", "--json"]
    assert main(words) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["plan"]["devices"] == 64
    assert numbers["memory"] == 24 * 10**9


def test_too_few_devices_are_told_how_many_would_do(capsys):
    assert main(["plan", "--devices", "trn2:4", "--context", "64"]) == 1
    assert "Nearest that fits: 16 devices of 24.0 GB." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--devices gpu:4", "argument --devices: 'gpu:4' is not of the form trn2:64"),
        ("--devices trn2", "argument --devices: '' is not an integer above 0"),
        ("--bandwidth fast", "--bandwidth 'fast': allowed is a size such as 24GB or 80GiB"),
        ("--bandwidth 0GB", "--bandwidth '0GB': allowed is a size such as 24GB or 80GiB"),
        ("--disk slow", "--disk 'slow': allowed is a size such as 24GB or 80GiB"),
        ("--expert-subset x", "--expert-subset: 'x' is neither an id nor a range such as 0-7"),
        ("--expert-subset 400", "400"),
        ("--ranks 3", "3"),
        ("--isq 9", "--isq is '9', allowed is Q8_0"),
    ],
)
def test_options_that_make_no_sense_are_one_line(words, message, capsys):
    status = main(["plan", *TINY, *words.split()])
    (line,) = capsys.readouterr().err.splitlines()
    assert (status, message in line) == (2, True), line
