"""min_hash bit by bit against Python's integers, and as an estimate against exact similarities."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import reference
import torch
from torch import Tensor

from docmill.kernels.min_hash import min_hash

MOST = (1 << 63) - 1
TOKENS = random.Random(5)
# Empty ones between others, shorter than a shingle, just one shingle, and more than a block takes at once.
SEQUENCES = [
    [],
    *([TOKENS.randrange(152_000) for _ in range(size)] for size in (1, 4, 0, 5, 6, 83, 769, 1029)),
    [],
]


def ragged(sequences: Sequence[Sequence[int]], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    token_ids = torch.tensor([token for sequence in sequences for token in sequence], dtype=dtype)
    lengths = torch.tensor([0, *map(len, sequences)], dtype=torch.int64)
    return token_ids.to(device), lengths.cumsum(0).to(device)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("num_hashes", "shingle_size", "seed"),
    [
        (1, 5, 0),
        (7, 1, 0),
        (130, 5, 1),  # two more than a block has threads
        (4, 2000, 0),  # longer than any sequence: each is one shingle
        (4, 3, -1),
        (4, 3, MOST),
    ],
)
def test_signatures_are_the_references_bit_by_bit(
    num_hashes: int, shingle_size: int, seed: int, dtype: torch.dtype, device: str
) -> None:
    options = {"num_hashes": num_hashes, "shingle_size": shingle_size, "seed": seed}
    signatures = min_hash(*ragged(SEQUENCES, dtype, device), **options)
    assert signatures.dtype == torch.int64
    for number, (actual, sequence) in enumerate(zip(signatures.tolist(), SEQUENCES, strict=True)):
        expected = reference.signature(sequence, **options)
        assert actual == expected, f"sequence {number} of {len(sequence)} tokens"


@pytest.mark.parametrize("token_id", [0, -1, (1 << 31) - 1, -(1 << 31), MOST, -MOST - 1])
def test_any_number_is_a_token(token_id: int, device: str) -> None:
    dtypes = [torch.int64, torch.int32] if -(1 << 31) <= token_id < 1 << 31 else [torch.int64]
    expected = reference.signature([token_id, 1], num_hashes=3, shingle_size=2, seed=0)
    for dtype in dtypes:
        token_ids, offsets = ragged([[token_id, 1]], dtype, device)
        assert min_hash(token_ids, offsets, num_hashes=3, shingle_size=2).tolist() == [expected]


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.9])
def test_equal_numbers_estimate_the_exact_similarity(overlap: float, device: str) -> None:
    """Of 40 pairs: the mean within 4 of its standard deviations."""
    num_hashes, size, num_pairs = 256, 200, 40
    tokens, sequences, exact = random.Random(1), [], []
    for _ in range(num_pairs):
        shared = [tokens.randrange(50_000) for _ in range(int(size * overlap))]
        pair = [shared + [tokens.randrange(50_000) for _ in range(size - len(shared))] for _ in range(2)]
        one, other = ({tuple(sequence[i : i + 3]) for i in range(size - 2)} for sequence in pair)
        exact.append(len(one & other) / len(one | other))
        sequences += pair
    signatures = min_hash(*ragged(sequences, torch.int32, device), num_hashes=num_hashes, shingle_size=3)
    estimates = (signatures[::2] == signatures[1::2]).double().mean(-1).cpu()
    similarity = sum(exact) / num_pairs
    deviation = (similarity * (1 - similarity) / num_hashes / num_pairs) ** 0.5
    assert abs(float(estimates.mean()) - similarity) < 4 * deviation


def test_the_order_within_a_shingle_counts_and_that_of_shingles_does_not(device: str) -> None:
    repeated, once, reverse = [1, 2, 1, 2, 1], [2, 1, 2], [1, 2, 2, 1]
    signatures = min_hash(*ragged([repeated, once, reverse], torch.int32, device), shingle_size=2).tolist()
    assert signatures[0] == signatures[1]
    assert signatures[0] != signatures[2]


@pytest.mark.parametrize("sequences", [[], [[], []]])
def test_no_sequences_and_no_tokens_are_no_error(sequences: list[list[int]], device: str) -> None:
    signatures = min_hash(*ragged(sequences, torch.int32, device), num_hashes=2)
    assert signatures.shape == (len(sequences), 2)
    assert (signatures == MOST).all()


IDS, OFFSETS = torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("token_ids", "offsets", "options", "message"),
    [
        (IDS.short(), OFFSETS, {}, "token_ids must be int32 or int64, it is int16"),
        (IDS, OFFSETS.int(), {}, "offsets must be int64, it is int32"),
        (IDS[None], OFFSETS, {}, "token_ids must have 1 dimension"),
        (torch.arange(6)[::2], OFFSETS, {}, "token_ids must be contiguous"),
        (IDS, OFFSETS[:0], {}, "offsets must have one number more than there are sequences"),
        (IDS, OFFSETS, {"num_hashes": 0}, "num_hashes must be 1 to 65535, it is 0"),
        (IDS, OFFSETS, {"num_hashes": 65536}, "num_hashes must be 1 to 65535, it is 65536"),
        (IDS, OFFSETS, {"shingle_size": 0}, "shingle_size must be at least 1, it is 0"),
        (IDS, torch.tensor([0, 3, 1]), {}, "offsets must rise from 0 to 3"),
        (IDS, torch.tensor([0, 3, 1, 3]), {}, "offsets must rise from 0 to 3"),
        (IDS, torch.tensor([0, 1, 2]), {}, "offsets must rise from 0 to 3"),
    ],
)
def test_what_does_not_fit_is_named(token_ids: Tensor, offsets: Tensor, options: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        min_hash(token_ids, offsets, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("offsets", [[-5, 1, 3], [0, 9, 3], [0, 3, 1], [7, 8, 9]])
def test_wrong_offsets_touch_no_wrong_memory(offsets: list[int]) -> None:
    """On a GPU nobody looks at them; compute-sanitizer would see what they lead to."""
    min_hash(IDS.cuda(), torch.tensor(offsets).cuda())
    torch.cuda.synchronize()


def test_the_op_is_what_its_schema_says(device: str) -> None:
    torch.library.opcheck(
        torch.ops.docmill.min_hash.default, (*ragged(SEQUENCES, torch.int32, device), 8, 5, 0)
    )


class Sketch(torch.nn.Module):
    def forward(self, token_ids: Tensor, offsets: Tensor) -> Tensor:
        return min_hash(token_ids + 1, offsets, num_hashes=8)


def test_a_compiled_module_gives_the_same(device: str) -> None:
    compiled = torch.compile(Sketch(), backend="aot_eager", fullgraph=True, dynamic=True)
    for sequences in (SEQUENCES, SEQUENCES[3:]):
        arguments = ragged(sequences, torch.int32, device)
        assert torch.equal(compiled(*arguments), Sketch()(*arguments))


@pytest.mark.gpu
def test_a_graph_replays_it() -> None:
    token_ids, offsets = ragged(SEQUENCES, torch.int32, "cuda")
    min_hash(token_ids, offsets)  # warm-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        signatures = min_hash(token_ids, offsets)
    token_ids += 1
    graph.replay()
    assert torch.equal(signatures, min_hash(token_ids, offsets))
