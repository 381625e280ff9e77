"""The two networks of the benchmarks in torch, with our weights: ``y = network(x, level, label)``, images as (batch, channels, h, w).

Written as one would in torch (linear layers, layer_norm, scaled_dot_product_attention), eager, without gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from score_lab.networks import MLP, DiT

__all__ = ["torch_network"]


def _linear(weights: dict) -> nn.Linear:
    """A linear layer with our kernel (in, out) and bias."""
    kernel = torch.tensor(np.asarray(weights["kernel"]).T).contiguous()
    layer = nn.Linear(kernel.shape[1], kernel.shape[0])
    layer.weight.data, layer.bias.data = kernel, torch.tensor(np.asarray(weights["bias"]))
    return layer


def _normal(h: Tensor) -> Tensor:
    return functional.layer_norm(h, h.shape[-1:], eps=1e-6)


class Conditioning(nn.Module):
    """The vector of level and label."""

    def __init__(self, weights: dict, max_frequency: float):
        super().__init__()
        self.first, self.second = (_linear(weights["level"][k]) for k in ("first", "second"))
        self.frequencies = torch.tensor(np.geomspace(1 / 16, max_frequency, 64), dtype=torch.float32)
        self.table = torch.tensor(np.asarray(weights["table"])) if "table" in weights else None

    def forward(self, level: Tensor, label: Tensor | None) -> Tensor:
        """(batch, width)."""
        angle = level[:, None] * self.frequencies[None]
        c = self.second(functional.silu(self.first(torch.cat([angle.cos(), angle.sin()], -1))))
        return c if self.table is None else c + self.table[label + 1]


class TorchMLP(nn.Module):
    """Our MLP."""

    def __init__(self, network: MLP, weights: dict):
        super().__init__()
        self.conditioning = Conditioning(weights["conditioning"], network.max_frequency)
        self.inward, self.modulation, self.outward = (_linear(weights[k]) for k in ("inward", "modulation", "outward"))
        blocks = [weights["blocks"][str(k)] for k in range(network.depth)]
        self.first = nn.ModuleList([_linear(block["first"]) for block in blocks])
        self.second = nn.ModuleList([_linear(block["second"]) for block in blocks])

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """(batch, d)."""
        c = self.conditioning(level, label)
        h = self.inward(x) + c
        modulations = self.modulation(functional.silu(c)).reshape(len(x), len(self.first), 2, -1)
        for k, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            inner = _normal(h) * (1 + modulations[:, k, 1]) + modulations[:, k, 0]
            h = h + second(functional.silu(first(inner)))
        return self.outward(functional.silu(h))


class TorchDiT(nn.Module):
    """Our DiT."""

    def __init__(self, network: DiT, weights: dict, shape: tuple[int, int, int]):
        super().__init__()
        self.patch, self.heads, self.depth = network.patch, network.heads, network.depth
        self.conditioning = Conditioning(weights["conditioning"], network.max_frequency)
        self.inward, self.modulation, self.outward = (_linear(weights[k]) for k in ("inward", "modulation", "outward"))
        for name in ("qkv", "project", "first", "second"):
            layers = nn.ModuleList([_linear(weights["blocks"][str(k)][name]) for k in range(network.depth)])
            setattr(self, name, layers)
        self.position = torch.tensor(self._positions(shape[0] // network.patch, shape[1] // network.patch, network.width))

    @staticmethod
    def _positions(rows: int, columns: int, width: int) -> np.ndarray:
        """sin and cos of the row, then of the column (the DiT paper's code)."""
        omega = 10000.0 ** (-np.arange(width // 4) / (width // 4))
        places = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        angles = [place.reshape(-1, 1) * omega for place in places]
        return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], -1)[None].astype(np.float32)

    def _attend(self, qkv: Tensor) -> Tensor:
        batch, tokens, width = qkv.shape
        q, k, v = qkv.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width // 3)

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """(batch, channels, h, w)."""
        batch, channels, height, width = x.shape
        p, rows, columns = self.patch, height // self.patch, width // self.patch
        tokens = x.reshape(batch, channels, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
        h = self.inward(tokens) + self.position
        c = self.conditioning(level, label)
        parts = self.modulation(functional.silu(c))[:, None].chunk(6 * self.depth + 2, -1)
        for k in range(self.depth):
            b1, a1, g1, b2, a2, g2 = parts[6 * k : 6 * k + 6]
            h = h + g1 * self.project[k](self._attend(self.qkv[k](_normal(h) * (1 + a1) + b1)))
            inner = self.first[k](_normal(h) * (1 + a2) + b2)
            h = h + g2 * self.second[k](functional.gelu(inner, approximate="tanh"))
        out = self.outward(_normal(h) * (1 + parts[-1]) + parts[-2])
        return out.reshape(batch, rows, columns, p, p, channels).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def torch_network(network: Any, weights: dict, shape: tuple[int, ...]) -> nn.Module:
    """The torch module of ``network`` with ``weights``, for examples of ``shape``."""
    module = TorchDiT(network, weights, shape) if isinstance(network, DiT) else TorchMLP(network, weights)
    return module.eval().requires_grad_(False)
