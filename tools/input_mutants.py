"""Mutants of what reads input: a bad one is no longer one line, or a line without a name."""

from tools.kernel_mutants import Mutant

__all__ = ["INPUT_MUTANTS"]

INPUT_MUTANTS = (
    Mutant(
        "nested JSON is a RecursionError",
        "mimo_v2_flash/json_object.py",
        "except RecursionError:",
        "except FileNotFoundError:",
        ("tests/test_json_object.py",),
    ),
    Mutant(
        "any JSON value is an object",
        "mimo_v2_flash/json_object.py",
        "if not isinstance(value, dict):",
        "if False:",
        ("tests/test_json_object.py",),
    ),
    Mutant(
        "the file of damaged JSON is not named",
        "mimo_v2_flash/json_object.py",
        'raise ValueError(f"{file}: {error}") from error',
        "raise",
        ("tests/test_json_object.py",),
    ),
    Mutant(
        "a variable is what int() reads",
        "mimo_v2_flash/process_variables.py",
        "if digits.isascii() and digits.isdecimal() and len(digits) <= len(str(maximum)):",
        "if digits:",
        ("tests/test_process_variables.py",),
    ),
    Mutant(
        "a rank beyond the world waits for rank 0",
        "mimo_v2_flash/parallel/launch.py",
        'integer_variable(env, "RANK", maximum=size - 1)',
        'integer_variable(env, "RANK")',
        ("tests/parallel/test_launch.py",),
    ),
    Mutant(
        "the network interface is left to gloo",
        "mimo_v2_flash/parallel/process_group.py",
        '    _check_interfaces(env.get(INTERFACES, ""))\n',
        "",
        ("tests/parallel/test_process_group.py",),
    ),
    Mutant(
        "the port is left to torch",
        "mimo_v2_flash/parallel/process_group.py",
        "_check_port(address.port) if is_host else _await_port(address, start_timeout)",
        "_await_port(address, start_timeout) if not is_host else None",
        ("tests/parallel/test_process_group.py",),
    ),
    Mutant(
        "a command of one rank reads a launcher's variables",
        "mimo_v2_flash/cli/session.py",
        "init_process_group(env if command.on_ranks else {})",
        "init_process_group(env)",
        ("tests/cli/test_session.py",),
    ),
    Mutant(
        "the line of an error trusts RANK",
        "mimo_v2_flash/cli/entry.py",
        "if rank.isdecimal() and ranks.isdecimal() and ranks",
        'if int(ranks or "1") > 1 and ranks',
        ("tests/cli/test_entry.py",),
    ),
    Mutant(
        "an error has as many lines as its message",
        "mimo_v2_flash/cli/entry.py",
        '" ".join(f"{prog}: {rank}{message(error)}".splitlines())',
        'f"{prog}: {rank}{message(error)}"',
        ("tests/cli/test_entry.py",),
    ),
    Mutant(
        "a full disk has no name",
        "mimo_v2_flash/cli/entry.py",
        '            error.filename = "standard output"\n',
        "",
        ("tests/cli/test_entry.py",),
    ),
    Mutant(
        "an error continues the line of the prompt",
        "mimo_v2_flash/cli/generate.py",
        "        if has_begun:\n",
        "        if False:\n",
        ("tests/cli/test_generate.py",),
    ),
    Mutant(
        "a size may be a float or a bool",
        "mimo_v2_flash/inputs.py",
        "if isinstance(value, bool) or not isinstance(value, Integral):",
        "if isinstance(value, str):",
        ("tests/test_inputs.py",),
    ),
    Mutant(
        "a trace takes the place of a device",
        "mimo_v2_flash/tracing/trace_file.py",
        "if path.exists() and not path.is_file():",
        "if False:",
        ("tests/tracing/test_trace_file.py",),
    ),
    Mutant(
        "a plan's default context is more than the model has",
        "mimo_v2_flash/cli/options.py",
        "return min(CONTEXT, config.max_position_embeddings)",
        "return CONTEXT",
        ("tests/cli/test_plan.py",),
    ),
    Mutant(
        "a tokenizer raises whatever its files lead to",
        "mimo_v2_flash/text/tokenizer.py",
        "    except Exception as error:\n        line",
        "    except OSError as error:\n        line",
        ("tests/text/test_tokenizer.py",),
    ),
)
