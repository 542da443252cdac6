"""Structured output from Python: an answer that a JSON schema binds, whatever the model knows.

python -m examples.structured_output
"""

import json
from typing import Any

from mimo_v2_flash import Runner, Which, example_folder

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["list", "tuple", "set"]},
        "items": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["name", "kind", "items"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "Describe a type of Python."}]


def describe(schema: dict[str, Any]) -> Any:
    """Return the answer to `MESSAGES` as the object that a schema describes."""
    form = {"type": "json_schema", "json_schema": {"name": "type", "schema": schema}}
    with Runner(Which.Plain(example_folder()), max_seqs=1, max_length=512) as runner:
        answer = runner.chat_completion(
            MESSAGES, response_format=form, temperature=0, max_tokens=400
        )
    return json.loads(answer.choices[0].message.content)


def main() -> None:
    """Print the object."""
    print(json.dumps(describe(SCHEMA)))


if __name__ == "__main__":
    main()
