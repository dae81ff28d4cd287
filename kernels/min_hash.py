"""MinHash signatures of token sequences: the share of equal numbers in two of them estimates how similar the texts are.

(Broder, "On the resemblance and containment of documents", 1997.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from docmill.kernels._checks import check_dtype, check_vector
from docmill.kernels._load import declare
from docmill.kernels._ragged import rows_of


def min_hash(
    token_ids: Tensor,  # [num_tokens], int32 or int64: one sequence after the other
    offsets: Tensor,  # [num_sequences + 1], int64, rising from 0 to num_tokens: where each sequence begins
    *,
    num_hashes: int = 128,  # the estimate's standard deviation is at most 0.5 / sqrt(num_hashes): 0.044 for 128
    shingle_size: int = 5,  # tokens; longer ones tell more texts apart, shorter ones forgive more changes
    seed: int = 0,  # only signatures of one seed, shingle size and number of hashes can be compared
) -> Tensor:
    """The signature of each sequence, [num_sequences, num_hashes], int64; the same bits on every device.

    A sequence is the set of its shingles, runs of `shingle_size` tokens in order; one that is shorter is one shingle,
    whatever its length; an empty one has none, and the largest int64 everywhere. Each number is the least hash of all
    shingles under one of `num_hashes` permutations of 64 bits (read as int64): equal in two sequences with the
    probability |A and B| / |A or B| of their sets.

    Raises RuntimeError for other dtypes, layouts and shapes than those above, no hashes or over 65,535, and an empty
    shingle. Offsets that do not rise so raise on the CPU; a kernel cannot look without waiting for the GPU: there the
    signatures are wrong, but no wrong memory is touched.
    """
    signatures: Tensor = torch.ops.docmill.min_hash(token_ids, offsets, num_hashes, shingle_size, seed)
    return signatures


def _check(token_ids: Tensor, offsets: Tensor, num_hashes: int, shingle_size: int) -> None:
    op = "min_hash"
    check_dtype(op, "token_ids", token_ids, (torch.int32, torch.int64))
    check_dtype(op, "offsets", offsets, (torch.int64,))
    check_vector(op, "token_ids", token_ids)
    check_vector(op, "offsets", offsets)
    torch._check(
        offsets.size(0) > 0,
        lambda: f"{op}: offsets must have one number more than there are sequences, it is empty",
    )
    torch._check(0 < num_hashes <= 65535, lambda: f"{op}: num_hashes must be 1 to 65535, it is {num_hashes}")
    torch._check(shingle_size > 0, lambda: f"{op}: shingle_size must be at least 1, it is {shingle_size}")


# ---- The twin: arithmetic modulo 2^64, in int64, which wraps around ----


def _signed(bits: int) -> int:
    bits %= 1 << 64
    return bits - (1 << 64) if bits >> 63 else bits


GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIER = _signed(0xBF58476D1CE4E5B9)
SECOND_MULTIPLIER = _signed(0x94D049BB133111EB)
LARGEST = (1 << 63) - 1


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Zeros come in at the left; `>>` of int64 would repeat the sign."""
    return (bits >> places) & ((1 << 64 - places) - 1)


def _mix(bits: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): each bit of the result depends on each of the input."""
    bits = (bits ^ _shift_right(bits, 30)) * MULTIPLIER
    bits = (bits ^ _shift_right(bits, 27)) * SECOND_MULTIPLIER
    return bits ^ _shift_right(bits, 31)


def _native(token_ids: Tensor, offsets: Tensor, num_hashes: int, shingle_size: int, seed: int) -> Tensor:
    _check(token_ids, offsets, num_hashes, shingle_size)
    num_sequences = offsets.size(0) - 1
    shingles, sequences = _shingle_hashes(token_ids, offsets, shingle_size)
    keys = [_signed(seed + GOLDEN * (2 * function + 1)) for function in range(num_hashes)]
    mixed = _mix(torch.tensor([keys, [_signed(key + GOLDEN) for key in keys]], dtype=torch.int64))
    signatures = offsets.new_full((num_hashes, num_sequences), LARGEST)
    for smallest, factor, offset in zip(signatures, (mixed[0] | 1).tolist(), mixed[1].tolist(), strict=True):
        smallest.scatter_reduce_(0, sequences, shingles * factor + offset, "amin")
    return signatures.t().contiguous()


def _shingle_hashes(token_ids: Tensor, offsets: Tensor, shingle_size: int) -> tuple[Tensor, Tensor]:
    """The hash of each shingle, and the sequence that it is of; both [num_shingles], int64."""
    sequences = rows_of("min_hash", "offsets", offsets, token_ids.size(0))
    begins, ends = offsets[:-1], offsets[1:]
    sizes = (ends - begins).clamp_max(shingle_size)  # of a shingle of this sequence
    places = torch.arange(token_ids.size(0), device=token_ids.device)
    is_first = places + sizes[sequences] <= ends[sequences]  # of a whole shingle
    sequences, places = sequences[is_first], places[is_first]
    sizes = sizes[sequences]
    hashes = torch.full_like(places, _signed(GOLDEN))
    for shift in range(min(shingle_size, token_ids.size(0))):
        tokens = token_ids[(places + shift).clamp_max(token_ids.size(0) - 1)].long()
        longer = (hashes ^ tokens) * MULTIPLIER
        hashes = torch.where(shift < sizes, longer ^ _shift_right(longer, 32), hashes)
    return _mix(hashes), sequences


def _fake(token_ids: Tensor, offsets: Tensor, num_hashes: int, shingle_size: int, seed: int) -> Tensor:  # noqa: ARG001
    _check(token_ids, offsets, num_hashes, shingle_size)
    return offsets.new_empty((offsets.size(0) - 1, num_hashes))


declare(
    "min_hash(Tensor token_ids, Tensor offsets, int num_hashes, int shingle_size, int seed) -> Tensor",
    native=_native,
    fake=_fake,
)
