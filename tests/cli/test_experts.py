"""mimo experts: what is recorded is simulated as a store ran it, and pinned."""

import json

import pytest

from mimo_v2_flash.cli.main import main


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return the folder of recorded routing, and the numbers of the run."""
    folder = tmp_path_factory.mktemp("experts")
    prompt = "generate", "--prompt", "Once upon a time", "--max-new-tokens", "20"
    cache = "--expert-cache", "800kB", "--expert-cache-policy", "lru", "--temperature", "0"
    files = "--record-routing", str(folder / "r.jsonl"), "--json", str(folder / "run.json")
    assert main([*prompt, *cache, *files]) == 0
    return folder, json.loads((folder / "run.json").read_text())


def test_a_simulation_has_the_counters_of_the_run(recorded, capsys):
    folder, run = recorded
    arguments = "--capacity", "800kB", "--json", str(folder / "s.json"), "--bandwidth", "1GB"
    assert main(["experts", "simulate", str(folder / "r.jsonl"), *arguments]) == 0
    out = capsys.readouterr().out
    assert "This routing is not MiMo-V2-Flash's" in out
    assert "stores of 800.0 kB" in out
    numbers = json.loads((folder / "s.json").read_text())
    (store,) = (
        each
        for each in numbers["simulations"]
        if (each["policy"], each["pool"]) == ("lru", "global")
    )
    live = run["stats"]["expert_cache"]
    for name in ("hits", "misses", "cold_misses", "read_bytes"):
        assert store["total"][name] == live[name]
    per_token = store["total"]["read_bytes_per_token"]
    assert store["total"]["seconds_per_token"] == pytest.approx(per_token / 1e9)
    assert {each["policy"] for each in numbers["simulations"]} >= {"belady", "static", "lfu"}
    assert len(numbers["prompt_sha256"]) == 64
    assert numbers["is_mimo"] is False


def test_without_budgets_there_are_five(recorded, tmp_path, capsys):
    folder, _ = recorded
    files = "--plot", str(tmp_path / "p.svg"), "--heat-map", str(tmp_path / "h.png")
    assert main(["experts", "simulate", str(folder / "r.jsonl"), *files]) == 0
    assert capsys.readouterr().out.count("stores of ") == 5
    assert "not MiMo-V2-Flash" in (tmp_path / "p.svg").read_text()
    assert (tmp_path / "h.png").stat().st_size > 1000


def test_a_set_is_pinned_and_kept(recorded, tmp_path, capsys):
    folder, _ = recorded
    routing, file = str(folder / "r.jsonl"), tmp_path / "set.json"
    assert main(["experts", "pin", routing, "--capacity", "800kB", "-o", str(file)]) == 0
    out = capsys.readouterr().out
    assert "not MiMo-V2-Flash" in out
    content = json.loads(file.read_text())
    assert 0 < content["experts_bytes"] <= 800_000 - 4 * 49_152
    assert {*content["experts"]} == {"1", "2", "3", "4", "5"}
    chosen = sum(map(len, content["experts"].values()))
    assert f"{chosen} experts" in out
    prompt = "generate", "--prompt", "Once", "--max-new-tokens", "2", "--temperature", "0"
    policy = f"static:{file}"
    cache = "--expert-cache", "800kB", "--expert-cache-policy", policy
    assert main([*prompt, *cache, "--json", str(tmp_path / "run.json")]) == 0
    numbers = json.loads((tmp_path / "run.json").read_text())
    assert numbers["stats"]["expert_cache"]["policy"] == policy


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["simulate", "{file}", "-o", "x"], "--output is for pin"),
        (["pin", "{file}", "--capacity", "800kB"], "--output is for pin, which needs it"),
        (["pin", "{file}", "-o", "x"], "pin needs one --capacity"),
        (["simulate", "{file}", "--capacity", "1kB"], "--capacity 1,000: expected room for an exp"),
        (["simulate", "{file}", "--capacity", "8 cows"], "--capacity is '8 cows', allowed is"),
        (["simulate", "{file}", "--bandwidth", "fast"], "--bandwidth is 'fast', allowed is"),
        (["simulate", "{folder}/absent"], "absent"),
        (["simulate", "{folder}/empty.jsonl"], "empty.jsonl: no call is recorded"),
        (["simulate", "{folder}/run.json"], "run.json: no recorded routing"),
    ],
)
def test_what_makes_no_sense_is_one_line(recorded, capsys, monkeypatch, tmp_path, arguments, line):
    folder, _ = recorded
    monkeypatch.chdir(tmp_path)
    first = (folder / "r.jsonl").read_text().splitlines()[0]
    (folder / "empty.jsonl").write_text(first + "\n")
    arguments = [each.format(file=folder / "r.jsonl", folder=folder) for each in arguments]
    assert main(["experts", *arguments]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["evaluate", "run"])
def test_other_commands_record_too(tmp_path, command, monkeypatch):
    text, routing = tmp_path / "text.txt", tmp_path / "r.jsonl"
    text.write_text("Once upon a time there was a cat.")
    what = {"evaluate": ["--text", str(text)], "run": ["-i", "Hello", "--max-new-tokens", "2"]}
    arguments = [command, *what[command], "--record-routing", str(routing)]
    assert main([*arguments, "--expert-cache", "400kB"]) == 0
    assert len(routing.read_text().splitlines()) > 5
    assert main([*arguments, "--backend", "xla"]) == 2


def test_a_chat_takes_the_cache_before_its_command(capsys):
    cache = "--expert-cache", "400kB", "--expert-cache-policy=lru"
    assert main([*cache, "run", "-i", "Hello", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out
    assert main(["--expert-cache", "1kB", "run", "-i", "Hello"]) == 2
    assert "--expert-cache is 1,000 bytes, expected room for an exp" in capsys.readouterr().err
