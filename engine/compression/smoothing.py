"""Outliers moved from activations, where 8 bits suffer from them, into weights, where they do little harm.

SmoothQuant (Xiao et al. 2022, arXiv 2211.10438): a product is the same with each input channel divided by `s` and the
weights' column multiplied by it,

    x W^T = (x / s) (W s)^T,   s_j = max|x_j|^alpha / max|W_j|^(1 - alpha)

and whatever comes before the layer can divide for nothing: the norm's weights before q, k, v and before gate, up;
v's rows before o (attention mixes tokens, not channels); up's rows before down (which multiplies them with the gate's).
Here each s is a power of two, so that the smoothed model is the same function to the last bit, in float32 and bfloat16.
In float16 it is not quite: its range is small, and what is scaled down below it loses bits or becomes zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from docmill.engine.compression.divergence import Reference
from docmill.engine.compression.formats import Format, quantises_activations
from docmill.engine.compression.inputs import largest_inputs
from docmill.engine.compression.layer_groups import layer_groups
from docmill.engine.compression.rounding import replaced, rounded_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How much of the outliers is moved; the best on the sequences is taken, or none.
ALPHAS = (0.35, 0.5, 0.65, 0.8)
BEFORE = {
    "self_attn.qkv_proj": "input_layernorm",
    "self_attn.o_proj": "self_attn.v_proj",
    "mlp.gate_up_proj": "post_attention_layernorm",
    "mlp.down_proj": "mlp.up_proj",
}


@dataclass(frozen=True)
class Site:
    """A product whose inputs can be scaled, and the module that scales them."""

    before: Any  # a norm or a linear layer
    layers: tuple[Any, ...]
    largest: Tensor  # [in], of the inputs
    repeats: int  # query heads that read one head of v; 1 elsewhere
    head_size: int

    def factors(self, alpha: float) -> Tensor:
        """[channels of `before`], powers of two; to divide by there and to multiply the columns with."""
        weights = torch.stack([layer.weight.detach().float().abs().amax(0) for layer in self.layers]).amax(0)
        inputs, weights = self._shared(self.largest), self._shared(weights)
        exponents = alpha * inputs.log2() - (1 - alpha) * weights.log2()
        alive = (inputs > 0) & (weights > 0)
        if bool(alive.any()):
            exponents -= exponents[alive].mean()  # one factor for all channels would change nothing
        return exponents.masked_fill(~alive, 0.0).round().exp2()

    def scale(self, factors: Tensor) -> None:
        """In place. The reciprocal factors undo it exactly."""
        columns = factors
        if self.repeats > 1:
            columns = factors.view(-1, 1, self.head_size).expand(-1, self.repeats, -1).flatten()
        for layer in self.layers:
            layer.weight.data *= columns.to(layer.weight.dtype)
        divisors = factors.to(self.before.weight.dtype)
        is_norm = self.before.weight.ndim == 1
        self.before.weight.data /= divisors if is_norm else divisors[:, None]
        if getattr(self.before, "bias", None) is not None:
            self.before.bias.data /= divisors

    def _shared(self, channels: Tensor) -> Tensor:
        """The largest over the query heads that read one head of v."""
        if self.repeats == 1:
            return channels
        return channels.view(-1, self.repeats, self.head_size).amax(1).flatten()


@torch.no_grad()
def smooth_for(
    model: PreTrainedModel, reference: Reference, precisions: Mapping[str, Format | None]
) -> float:
    """Smooth the model in place where activations will be 8-bit; returns the alpha, 0 where none helped.

    `precisions`: by group. Of each alpha the divergence of the model is measured with these groups in 8 bits.
    """
    sites = _sites(model, reference, precisions)
    if not sites:
        return 0.0
    names = layer_groups(name for name, _ in model.named_modules())
    # Without what stays in 16-bit activations: its errors are not smoothing's, and would drown the difference.
    formats = {
        name: form
        for group, form in precisions.items()
        if form and quantises_activations(form)
        for name in names[group]
    }

    def measured() -> float:
        with replaced(model, rounded_layers(model, formats)):
            return reference.divergence(model)

    factors = {alpha: [site.factors(alpha) for site in sites] for alpha in ALPHAS}
    found = {0.0: measured()}
    for alpha, own in factors.items():
        _scale(sites, own)
        found[alpha] = measured()
        _scale(sites, [one.reciprocal() for one in own])
    best = min(found, key=lambda alpha: found[alpha])
    if best:
        _scale(sites, factors[best])
    return best


def _scale(sites: Sequence[Site], factors: Sequence[Tensor]) -> None:
    for site, own in zip(sites, factors, strict=True):
        site.scale(own)


def _sites(
    model: PreTrainedModel, reference: Reference, precisions: Mapping[str, Format | None]
) -> list[Site]:
    groups = layer_groups(name for name, _ in model.named_modules())
    wanted = {
        group: groups[group] for group, form in precisions.items() if form and quantises_activations(form)
    }
    largest = largest_inputs(model, [names[0] for names in wanted.values()], reference.batches)
    config = model.config
    repeats = config.num_attention_heads // config.num_key_value_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sites = []
    for group, names in wanted.items():
        parent, kind = group.rsplit(".", 2)[0], ".".join(group.rsplit(".", 2)[1:])
        sites.append(
            Site(
                before=model.get_submodule(f"{parent}.{BEFORE[kind]}"),
                layers=tuple(model.get_submodule(name) for name in names),
                largest=largest[names[0]],
                repeats=repeats if kind == "self_attn.o_proj" else 1,
                head_size=head_size,
            )
        )
    return sites
