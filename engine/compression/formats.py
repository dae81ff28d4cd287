"""The number formats that linear layers can be stored and computed in, and what a weight of each costs.

| format | weights | activations | in compressed-tensors | vLLM runs it |
|---|---|---|---|---|
| `int8` | 8-bit integers, a scale for each output channel | 8-bit integers, a scale for each token as it comes | int-quantized | GPUs from Ampere on, CPUs |
| `fp8` | e4m3, a scale for each output channel | e4m3, a scale for each token as it comes | float-quantized | GPUs from Ada on, CPUs (slow) |
| `w4a16` | 4-bit integers, scale and zero point for each group of 128 inputs | as they are | pack-quantized | GPUs from Turing on, CPUs |

A real number is kept as `q` and read as

    r = scale * q                    symmetric:  scale = max|r| / 127.5 (weights in int8), 127 (activations), 448 (e4m3)
    r = scale * (q - zero_point)     affine:     scale = (max r - min r) / 15,  zero_point = -8 - min r / scale

with `q = clamp(round(r / scale) + zero_point)` (Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference"). The product of two symmetric rows is `scale_x * scale_w * sum(q_x * q_w)`,
so that hardware multiplies 8-bit numbers and scales the sum. Affine weights cost no more than symmetric ones where they
are read back into 16 bits before the product, and fit a group's lopsided range better; hence 4 bits are affine.

Imports no torch: a job's settings name formats.
"""  # noqa: E501 - a table

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme

Format = Literal["int8", "fp8", "w4a16"]
FORMATS: tuple[Format, ...] = get_args(Format)

UNQUANTISED_BITS = 16.0
GROUP_SIZES = (
    128,
    64,
    32,
)  # of 4 bits; the first that divides the layer's inputs. Kernels take no smaller ones.
SCALE_BITS = {"int8": 32, "fp8": 32, "w4a16": 16 + 4}  # w4a16: with its zero point
TILE = {
    "int8": 16,
    "fp8": 16,
    "w4a16": 32,
}  # inputs and outputs that vLLM's kernels take are multiples of this


def quantises_activations(form: Format) -> bool:
    """Whether a layer's inputs are rounded too; outliers among them then matter."""
    return form != "w4a16"


def fast_formats(device: str) -> tuple[Format, ...]:
    """What `auto` chooses from: the 8 bits that this machine's `cpu` or `cuda` multiplies fastest.

    FP8 needs tensor cores of Ada or later; INT8's are gone in the newest. Imports torch.
    """
    import torch

    return ("fp8",) if device == "cuda" and torch.cuda.get_device_capability() >= (8, 9) else ("int8",)


def fits(form: Format, num_outputs: int, num_inputs: int) -> bool:
    """Whether vLLM has a kernel for a layer of this shape."""
    return num_outputs % TILE[form] == 0 and num_inputs % TILE[form] == 0


def group_size(num_inputs: int) -> int:
    """Inputs that share a scale in 4 bits."""
    for size in GROUP_SIZES:
        if num_inputs % size == 0:
            return size
    raise ValueError(f"4 bits need inputs in multiples of {GROUP_SIZES[-1]}; a layer has {num_inputs}")


def bits_per_weight(form: Format, num_inputs: int) -> float:
    """With its share of the scale and zero point."""
    if form == "w4a16":
        return 4 + SCALE_BITS[form] / group_size(num_inputs)
    return 8 + SCALE_BITS[form] / num_inputs


def scheme_of(form: Format, num_inputs: int) -> QuantizationScheme:
    """As compressed-tensors describes it, without targets. Imports torch."""
    from compressed_tensors.config import CompressionFormat
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    if form == "w4a16":
        size = group_size(num_inputs)
        weights = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=size, symmetric=False)
        return QuantizationScheme(targets=[], weights=weights, format=CompressionFormat.pack_quantized)
    number, stored = {
        "int8": ("int", CompressionFormat.int_quantized),
        "fp8": ("float", CompressionFormat.float_quantized),
    }[form]
    weights = QuantizationArgs(num_bits=8, type=number, strategy="channel", symmetric=True)
    activations = QuantizationArgs(num_bits=8, type=number, strategy="token", symmetric=True, dynamic=True)
    return QuantizationScheme(targets=[], weights=weights, input_activations=activations, format=stored)
