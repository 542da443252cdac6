"""Mutants of the training tools: what is learned, from what, and how it is judged."""

from tools.kernel_mutants import Mutant

__all__ = ["TRAINING_MUTANTS"]


def _tool(name: str, file: str, old: str, new: str, test: str) -> Mutant:
    """Return a mutant of `tools/file`, which `tests/tools/test_{test}.py` must catch."""
    return Mutant(name, f"tools/{file}.py", old, new, (f"tests/tools/test_{test}.py",))


TRAINING_MUTANTS = (
    _tool(
        "segments of a sliding layer see each other",
        "train/attention",
        "return same & (column >= row)",
        "return (column >= row)",
        "train",
    ),
    _tool(
        "a window of 128 keys while training",
        "train/attention",
        "(column >= row)",
        "(column > row)",
        "train",
    ),
    _tool(
        "a sink that learns to grow where it should shrink",
        "train/attention",
        "-(each * total[head]).sum()",
        "(each * total[head]).sum()",
        "train",
    ),
    _tool(
        "the selection bias weighs experts while training",
        "train/experts",
        "scores_NE.gather(1, index_NK)",
        "ranking.gather(1, index_NK)",
        "train",
    ),
    _tool(
        "a busy expert becomes busier",
        "train/experts",
        "self.load_E.mean() - self.load_E",
        "self.load_E - self.load_E.mean()",
        "train",
    ),
    _tool(
        "the load of a step is that of its last part",
        "train/experts",
        "torch.stack(self.loads).sum(0), []",
        "self.loads[-1], []",
        "parallel",
    ),
    _tool(
        "the rows that pad a block of logits count",
        "train/loss",
        ".mul(counts_N1[rows]).sum()",
        ".sum()",
        "train",
    ),
    _tool(
        "the padding of a segment counts",
        "train/packing",
        "np.pad(counts, (0, padding))",
        "np.pad(counts, (0, padding), constant_values=True)",
        "train",
    ),
    _tool(
        "every epoch of documents has one order",
        "train/packing",
        "generator = np.random.default_rng((self._seed, epoch))",
        "generator = np.random.default_rng(self._seed)",
        "train",
    ),
    _tool(
        "parts of a step weigh the same, however many tokens count",
        "train/parallel",
        "(count / sum(counts))",
        "(1 / len(counts))",
        "parallel",
    ),
    _tool(
        "the gradient of a step is that of its last part",
        "train/parallel",
        "each.grad += share",
        "each.grad = share",
        "parallel",
    ),
    _tool(
        "a resumed run forgets its momentum",
        "train/schedule",
        'self._optimizer.load_state_dict(state["learner"])',
        "pass",
        "train",
    ),
    _tool(
        "every MTP head reads the next token",
        "train/heads",
        "batch.next_N.roll(-index)",
        "batch.next_N",
        "train",
    ),
    _tool(
        "an MTP head learns from the next segment",
        "train/heads",
        "(position + index + 1 < segments.end_N) & batch",
        "batch",
        "train",
    ),
    _tool(
        "bits of the last window count as those of a whole one",
        "train/text_quality",
        ".item() * int(batch.counts_N.sum())",
        ".item() * len(group) * len(windows[0])",
        "train",
    ),
    _tool(
        "the user's words are learned",
        "train/rendering",
        "mask[begin : tokens.index(end, begin) + 1] = True",
        "mask[: tokens.index(end, begin) + 1] = True",
        "rendering",
    ),
    _tool(
        "an answer's end is not learned",
        "train/rendering",
        "tokens.index(end, begin) + 1]",
        "tokens.index(end, begin)]",
        "rendering",
    ),
    _tool(
        "a call of any tool is right",
        "train/quality",
        'is_right = answer.called == call["name"] and',
        "is_right = answer.calls and",
        "quality",
    ),
    _tool(
        "a thought in the answer's text is inside its markers",
        "train/quality",
        "return not stray and",
        "return",
        "quality",
    ),
    _tool(
        "held-out values are trained on",
        "corpus/values",
        "while is_held_out(value := make(), HELD_OUT) != self.held_out:",
        "while (value := make()) is None:",
        "corpus",
    ),
    _tool(
        "held-out functions are trained on",
        "corpus/docstrings",
        "if not each.is_held_out:",
        "if each:",
        "corpus",
    ),
    _tool(
        "a forbidden sentence in capitals stays",
        "corpus/sentences",
        "WORD.findall(part.lower())",
        "WORD.findall(part)",
        "corpus",
    ),
)
