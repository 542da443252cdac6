"""Draw what the scheduler does with a few requests: docs/schedule.svg.

    python -m benchmarks.engine_schedule

The scheduler is the engine's; no model runs, and every token is 0. Four rows, chunks of 64 tokens.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams
from mimo_v2_flash.engine.scheduler import ScheduledTokens, Scheduler

PICTURE = Path(__file__).parents[1] / "docs" / "schedule.svg"
ROWS, CHUNK = 4, 64
REQUESTS = (  # arrival (step), tokens of the prompt, of which known, new tokens
    (0, 20, 0, 9),
    (0, 40, 0, 12),
    (2, 200, 0, 6),
    (3, 30, 0, 7),
    (4, 24, 0, 5),
    (8, 130, 96, 4),
)
COLORS = {"prompt": "#3b6ea5", "next token": "#c9d7e6", "known prefix": "#7fb069"}
STYLE = {"svg.hashsalt": "schedule", "svg.fonttype": "none", "font.size": 8}


def main() -> int:
    """Run the schedule and save the picture."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.4), layout="constrained")
        axes = figure.subplots()
        steps = run(lambda step, part, row: _draw_part(axes, step, part, row))
        axes.set_yticks(range(ROWS), [f"row {row}" for row in range(ROWS)])
        axes.set_xticks(range(steps), [str(step) for step in range(steps)])
        axes.set_xlabel("step")
        axes.set_xlim(-0.5, steps - 0.5)
        axes.set_ylim(ROWS - 0.5, -0.5)
        axes.spines[["top", "right"]].set_visible(False)
        handles = [mpl.patches.Patch(color=color, label=name) for name, color in COLORS.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(PICTURE, metadata={"Date": None})
    return 0


def run(draw: Callable[[int, ScheduledTokens, int], object]) -> int:
    """Schedule the requests, call `draw` for each part of a step, and return how many steps."""
    known = {index: request[2] for index, request in enumerate(REQUESTS)}

    def begin(sequence: Sequence) -> None:
        sequence.computed = sequence.reused = known[sequence.request.id]

    scheduler = Scheduler(
        (slice(0, ROWS),), prefill_chunk=CHUNK, max_step=512, clock=lambda: 0.0, begin=begin
    )
    step, left = 0, list(enumerate(REQUESTS))
    while left or scheduler.waiting or scheduler.running:
        while left and left[0][1][0] <= step:
            id_, (_, prompt, _, new) = left.pop(0)
            request = Request(id_, [0] * prompt, SamplingParams(), frozenset(), new, seed=0)
            request.sequences = [Sequence(request, 0)]
            scheduler.add(request)
        for part in scheduler.schedule():
            draw(step, part, part.sequence.row or 0)
            _advance(part, scheduler)
        step += 1
    return step


def _advance(part: ScheduledTokens, scheduler: Scheduler) -> None:
    """Do what a model would: compute the tokens, and choose the next where they were the last."""
    sequence, is_last = part.sequence, part.is_last
    sequence.computed += len(part.tokens)
    if is_last:
        sequence.new_tokens.append(0)
    if len(sequence.new_tokens) == sequence.request.limit:
        scheduler.remove(sequence)


def _draw_part(axes: Axes, step: int, part: ScheduledTokens, row: int) -> None:
    """Draw a part as a box with the request's letter and the number of tokens."""
    sequence, left, width = part.sequence, step - 0.45, 0.9
    if sequence.reused and sequence.computed == sequence.reused:
        axes.barh(row, 0.35, left=left, height=0.8, color=COLORS["known prefix"])
        axes.text(left + 0.175, row, str(sequence.reused), ha="center", va="center", fontsize=6)
        left, width = left + 0.35, 0.55
    color = COLORS["prompt" if sequence.is_prefill else "next token"]
    axes.barh(row, width, left=left, height=0.8, color=color)
    label = f"{'ABCDEF'[sequence.request.id]} {len(part.tokens)}"
    axes.text(left + width / 2, row, label, ha="center", va="center", fontsize=6)


if __name__ == "__main__":
    sys.exit(main())
