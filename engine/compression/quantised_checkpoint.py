"""Writing a checkpoint in compressed-tensors' format, which unmodified vLLM loads.

Its `quantization_config` names the layers of each format; those of none are not touched. Layout and packing are
compressed-tensors' own (https://github.com/vllm-project/compressed-tensors).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, QuantizationStatus
from torch import Tensor

from docmill.engine.compression.checkpoint import linear_layers, stored_dtype, write_checkpoint
from docmill.engine.compression.formats import Format, scheme_of
from docmill.engine.compression.rounding import RoundedWeight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "lm_head"  # in all supported architectures


def save_quantised(
    model: PreTrainedModel,
    source: Path,
    out: Path,
    *,
    formats: Mapping[str, Format],
    weights: Mapping[str, RoundedWeight],
) -> None:
    """The model with the weights named in the place of its own; all else in the dtype that `source` says.

    `formats`, `weights`: by the names of linear layers. `out` is made; it must not hold anything.
    """
    schemes = {name: scheme_of(form, weights[name].values.shape[1]) for name, form in formats.items()}
    config = quantization_config(schemes, all_layers=tuple(linear_layers(model)))
    model.to(getattr(torch, stored_dtype(source)))
    state = model.state_dict()
    for name, scheme in schemes.items():
        del state[f"{name}.weight"]
        for part, tensor in stored_tensors(weights[name], scheme).items():
            state[f"{name}.{part}"] = tensor
    model.config.quantization_config = config
    write_checkpoint(model, source, out, state=state)


def stored_tensors(weight: RoundedWeight, scheme: QuantizationScheme) -> dict[str, Tensor]:
    """By their names in the checkpoint, behind the layer's."""
    assert scheme.format is not None
    compressor = BaseCompressor.get_value_from_registry(CompressionFormat(scheme.format).value)
    parts = {
        "weight": weight.real(),
        "weight_scale": weight.scales,
        "weight_zero_point": weight.zero_points,
    }
    stored = compressor.compress(parts, scheme)
    if weight.args.num_bits == 4:
        stored["weight_scale"] = stored["weight_scale"].bfloat16()  # exact, see `RoundedWeight`
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def quantization_config(
    schemes: Mapping[str, QuantizationScheme], *, all_layers: tuple[str, ...]
) -> dict[str, object]:
    """What config.json says of the layers: those of one scheme are one group; the others and the head are ignored."""
    groups: list[QuantizationScheme] = []
    for name, scheme in schemes.items():
        same = next((group for group in groups if group.model_copy(update={"targets": []}) == scheme), None)
        if same is None:
            groups.append(scheme.model_copy(update={"targets": [name]}))
        else:
            same.targets.append(name)
    if len(groups) == 1 and len(schemes) == len(all_layers):
        groups[0].targets = ["Linear"]
    stored = {str(group.format) for group in groups}
    config = QuantizationConfig(
        config_groups={f"group_{number}": group for number, group in enumerate(groups)},
        format=stored.pop() if len(stored) == 1 else CompressionFormat.mixed_precision.value,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=[*(name for name in all_layers if name not in schemes), HEAD],
    )
    return config.model_dump(mode="json")
