"""label_scores against float64: on the CPU the native twin, on a GPU the kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import reference
import torch
from cases import DTYPES, LAYOUTS, ODD_SIZES, laid_out, normal
from compare import assert_close
from torch import Tensor

from docmill.kernels.label_scores import label_scores

VOCABULARY = 211
# None, one, as many as warps in a block, and more than a block has threads.
LABEL_SETS = ([5], [], [7, 3], [210, 0, 1, 2, 3], list(range(150)), [], [9, 9, 4])


def ragged(label_sets: Sequence[Sequence[int]], device: str) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([token_id for labels in label_sets for token_id in labels], dtype=torch.int64)
    lengths = torch.tensor([0, *map(len, label_sets)], dtype=torch.int64)
    return ids.to(device), lengths.cumsum(0).to(device)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [*ODD_SIZES, 8, 1024, 4096])
def test_a_row_is_normalised_over_its_own_labels(
    hidden: int, dtype: torch.dtype, layout: str, device: str
) -> None:
    states = normal(len(LABEL_SETS), hidden, dtype=dtype, device=device)
    lm_head = (normal(VOCABULARY, hidden, dtype=torch.float32, device=device, seed=2) / hidden**0.5).to(dtype)
    ids, offsets = ragged(LABEL_SETS, device)
    views = laid_out(states, layout), laid_out(lm_head, layout, gaps=3)
    log_probs, best = label_scores(*views, ids, offsets)
    expected: list[float] = []
    for row, (state, labels) in enumerate(zip(states, LABEL_SETS, strict=True)):
        logits = reference.label_logits(state, lm_head, labels)
        expected += reference.log_softmax(logits) if logits else []
        place = int(best[row])
        if not labels:
            assert place == -1, f"row {row} has no labels, its best is {place}"
        else:
            worse_by = max(logits) - logits[place]
            assert worse_by <= 1e-4, f"row {row}: best is {place}, by {worse_by} worse than the largest logit"
    assert_close(
        log_probs,
        torch.tensor(expected, dtype=torch.float64),
        1e-4,
        what="log_probs",
        why="logits of about 1, summed in float32",
    )


def test_of_equals_the_first_is_best_and_a_label_named_twice_counts_twice(device: str) -> None:
    states = torch.ones(2, 4, device=device)
    lm_head = torch.tensor([[0.0] * 4, [1.0] * 4, [-0.0] * 4], device=device)
    ids, offsets = ragged([[0, 1, 1], [2, 0, 2]], device)
    log_probs, best = label_scores(states, lm_head, ids, offsets)
    assert best.tolist() == [1, 0]
    expected = torch.tensor([*reference.log_softmax([0, 4, 4]), *[math.log(1 / 3)] * 3])
    assert_close(log_probs, expected, 1e-6, what="log_probs", why="float32")


@pytest.mark.parametrize(
    ("logits", "log_probs", "best"),
    [
        ([1.0, math.nan, 2.0, math.nan], [math.nan] * 4, 1),
        ([1.0, math.inf, 2.0], [math.nan] * 3, 1),
        ([math.inf, math.nan], [math.nan] * 2, 1),
        ([-math.inf, 3.0], [-math.inf, 0.0], 1),  # impossible, but the other is sure
        ([-math.inf, -math.inf], [math.nan] * 2, 0),  # nothing is possible
        ([-3e38, 3e38], [-math.inf, 0.0], 1),  # their difference is more than float32 holds
        ([-1e-45, -2e-45, 0.0], [math.log(1 / 3)] * 3, 2),  # denormal numbers differ too
    ],
)
def test_extreme_logits_and_their_neighbours(
    logits: list[float], log_probs: list[float], best: int, device: str
) -> None:
    """Between two ordinary rows, which they do not touch."""
    lm_head = torch.tensor([*logits, 0.0, 0.0], device=device)[:, None]
    zeros = [len(logits), len(logits) + 1]
    ids, offsets = ragged([zeros, range(len(logits)), zeros], device)
    actual, actual_best = label_scores(torch.ones(3, 1, device=device), lm_head, ids, offsets)
    half = [math.log(1 / 2)] * 2
    assert_close(actual, torch.tensor([*half, *log_probs, *half]), 1e-6, what="log_probs", why="float32")
    assert actual_best.tolist() == [0, best, 0]


def test_an_id_outside_of_the_vocabulary_makes_its_row_nan_and_no_other(device: str) -> None:
    states, lm_head = torch.ones(3, 4, device=device), torch.ones(5, 4, device=device)
    ids, offsets = ragged([[0, 5], [0, 1], [-1]], device)
    log_probs, best = label_scores(states, lm_head, ids, offsets)
    assert log_probs.isnan().tolist() == [True, True, False, False, True]
    assert best.tolist() == [1, 0, 0]


@pytest.mark.parametrize("label_sets", [[], [[], []]])
def test_no_rows_and_no_labels_are_no_error(label_sets: list[list[int]], device: str) -> None:
    states, lm_head = torch.ones(len(label_sets), 4, device=device), torch.ones(5, 4, device=device)
    log_probs, best = label_scores(states, lm_head, *ragged(label_sets, device))
    assert (log_probs.shape, log_probs.dtype) == ((0,), torch.float32)
    assert (best.tolist(), best.dtype) == ([-1] * len(label_sets), torch.int64)


def test_more_labels_than_are_gathered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin's own limit on memory changes nothing."""
    states = normal(len(LABEL_SETS), 64, dtype=torch.float32, device="cpu")
    lm_head = normal(VOCABULARY, 64, dtype=torch.float32, device="cpu", seed=2)
    whole = label_scores(states, lm_head, *ragged(LABEL_SETS, "cpu"))
    monkeypatch.setattr("docmill.kernels.label_scores._ELEMENTS_AT_ONCE", 64 * 7)
    parts = label_scores(states, lm_head, *ragged(LABEL_SETS, "cpu"))
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


STATES, LM_HEAD, IDS, OFFSETS = (
    torch.ones(2, 4),
    torch.ones(5, 4),
    torch.tensor([1, 2, 3]),
    torch.tensor([0, 1, 3]),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (STATES.double(), LM_HEAD.double(), IDS, OFFSETS),
            "hidden_states must be float32, float16 or bfloat16",
        ),
        ((STATES, LM_HEAD.half(), IDS, OFFSETS), "lm_head must be float32, it is float16"),
        ((STATES, LM_HEAD, IDS.int(), OFFSETS), "label_token_ids must be int64, it is int32"),
        ((STATES, LM_HEAD, IDS, OFFSETS.int()), "label_offsets must be int64, it is int32"),
        ((STATES, LM_HEAD.t().contiguous().t(), IDS, OFFSETS), "a row of lm_head must be adjacent"),
        ((STATES, LM_HEAD, torch.arange(6)[::2], OFFSETS), "label_token_ids must be contiguous"),
        ((STATES, torch.ones(5, 3), IDS, OFFSETS), "lm_head must have size 4 in dimension 1, it has 3"),
        ((STATES, LM_HEAD[:0], IDS, OFFSETS), "lm_head must have at least one row"),
        ((STATES, LM_HEAD, IDS, OFFSETS[:2]), "label_offsets must have size 3 in dimension 0, it has 2"),
        ((STATES, LM_HEAD, IDS, torch.tensor([0, 3, 1])), "label_offsets must rise from 0 to 3"),
        ((STATES, LM_HEAD, IDS, torch.tensor([0, 1, 2])), "label_offsets must rise from 0 to 3"),
        ((STATES, LM_HEAD, IDS, torch.tensor([1, 2, 3])), "label_offsets must rise from 0 to 3"),
    ],
)
def test_what_does_not_fit_is_named(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        label_scores(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("offsets", [[-5, 1, 3], [0, 9, 3], [0, 3, 1], [7, 8, 9]])
def test_wrong_offsets_touch_no_wrong_memory(offsets: list[int]) -> None:
    """On a GPU nobody looks at them; compute-sanitizer would see what they lead to."""
    arguments = (STATES, LM_HEAD, IDS, torch.tensor(offsets))
    label_scores(*(argument.cuda() for argument in arguments))
    torch.cuda.synchronize()


def test_the_op_is_what_its_schema_says(device: str) -> None:
    states, lm_head = (
        normal(size, 64, dtype=torch.bfloat16, device=device) for size in (len(LABEL_SETS), VOCABULARY)
    )
    torch.library.opcheck(
        torch.ops.docmill.label_scores.default, (states, lm_head, *ragged(LABEL_SETS, device))
    )


class Head(torch.nn.Module):
    """In the place of a model's LM head."""

    def __init__(self, device: str):
        super().__init__()
        lm_head = normal(VOCABULARY, 64, dtype=torch.bfloat16, device=device)
        self.lm_head = torch.nn.Parameter(lm_head, requires_grad=False)

    def forward(self, states: Tensor, ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, best = label_scores(states * 2, self.lm_head, ids, offsets)
        return log_probs.exp(), best


def test_a_compiled_module_gives_the_same(device: str) -> None:
    head = Head(device)
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True, dynamic=True)
    for label_sets in (LABEL_SETS, LABEL_SETS[2:]):
        states = normal(len(label_sets), 64, dtype=torch.bfloat16, device=device)
        arguments = (states, *ragged(label_sets, device))
        for actual, expected in zip(compiled(*arguments), head(*arguments), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.gpu
def test_a_graph_replays_it() -> None:
    states, lm_head = (
        normal(size, 1024, dtype=torch.bfloat16, device="cuda") for size in (len(LABEL_SETS), VOCABULARY)
    )
    arguments = (states, lm_head, *ragged(LABEL_SETS, "cuda"))
    label_scores(*arguments)  # warm-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = label_scores(*arguments)
    states.copy_(normal(len(LABEL_SETS), 1024, dtype=torch.bfloat16, device="cuda", seed=3))
    graph.replay()
    for actual, expected in zip(replayed, label_scores(*arguments), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
