"""The demo model's network: Qwen3, written out so that training computes no more than it needs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# These heads (layer: head) are taught where to look while translating: the first at the sentence that is being
# translated, the second at the name, city or product that comes next. Left alone, a small model needs far longer
# to find out where to look than to learn all words.
POINTER_HEADS = {2: 5, 3: 0}


@dataclass(frozen=True)
class Shape:
    """The model's sizes. head_dim must be one that vLLM's CPU attention knows."""

    vocab_size: int
    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 6
    head_dim: int = 32
    intermediate_size: int = 512
    rope_theta: float = 10000.0
    max_positions: int = 2048

    def config(self, *, eos_token_id: int, pad_token_id: int) -> dict[str, object]:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": None,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocab_size,
        }


class Layer(nn.Module):
    """One decoder layer, named as in Qwen3 so that its weights are saved as they are."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, heads = shape.hidden_size, shape.num_heads * shape.head_dim
        kv_heads = shape.num_kv_heads * shape.head_dim
        self.shape = shape
        self.input_layernorm = nn.RMSNorm(hidden, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=1e-6)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(hidden, heads, bias=False),
                "k_proj": nn.Linear(hidden, kv_heads, bias=False),
                "v_proj": nn.Linear(hidden, kv_heads, bias=False),
                "o_proj": nn.Linear(heads, hidden, bias=False),
                "q_norm": nn.RMSNorm(shape.head_dim, eps=1e-6),
                "k_norm": nn.RMSNorm(shape.head_dim, eps=1e-6),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(hidden, shape.intermediate_size, bias=False),
                "up_proj": nn.Linear(hidden, shape.intermediate_size, bias=False),
                "down_proj": nn.Linear(shape.intermediate_size, hidden, bias=False),
            }
        )

    def looks(self, head: int, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """One head's attention, computed once more for the loss: [batch, length, length]."""
        attention, dim = self.self_attn, self.shape.head_dim
        rows = slice(head * dim, (head + 1) * dim)
        h = self.input_layernorm(x)
        q = attention["q_norm"](F.linear(h, attention["q_proj"].weight[rows])).unsqueeze(1)
        k = attention["k_norm"](F.linear(h, attention["k_proj"].weight[rows])).unsqueeze(1)
        scores = (rotate(q, cos, sin) @ rotate(k, cos, sin).mT) * dim**-0.5
        return scores.masked_fill(~mask, -1e9).softmax(dim=-1).squeeze(1)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape  # x: [batch, length, hidden]
        attention, dim = self.self_attn, self.shape.head_dim
        h = self.input_layernorm(x)
        q = attention["q_norm"](attention["q_proj"](h).view(batch, length, -1, dim)).transpose(1, 2)
        k = attention["k_norm"](attention["k_proj"](h).view(batch, length, -1, dim)).transpose(1, 2)
        v = attention["v_proj"](h).view(batch, length, -1, dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        x = x + attention["o_proj"](h.transpose(1, 2).reshape(batch, length, -1))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of two halves. x: [batch, heads, length, dim]; cos, sin: [batch, 1, length, dim / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class DemoModel(nn.Module):
    """Qwen3 with tied embeddings: our own few lines, since only the answers need logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=1e-6)
        nn.init.normal_(self.embed_tokens.weight, std=0.04)
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim == 2:
                # Layers that start by adding nothing train more steadily.
                std = 0.0 if "o_proj" in name or "down_proj" in name else parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=std) if std else nn.init.zeros_(parameter)
        half = shape.head_dim // 2
        frequencies = shape.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(shape.max_positions, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Last hidden states [batch, length, hidden] and where each pointer head looks [batch, length, length]."""
        x = self.embed_tokens(ids)
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        looks = []
        for number, layer in enumerate(self.layers):
            if number in POINTER_HEADS:
                looks.append(layer.looks(POINTER_HEADS[number], x, cos, sin, mask))
            x = layer(x, cos, sin, mask)
        return self.norm(x), looks
