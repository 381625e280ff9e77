"""The networks of the benchmarks in torch, with our weights: ``y = network(x, level, label)``, images as (batch, channels, h, w).

Written as one would in torch (linear layers, convolutions, layer_norm, group_norm, scaled_dot_product_attention).  The U-Net is ADM's with
what the benchmarks ask of it: scale and shift, resampling inside residual blocks, attention in the middle, no dropout.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from score_lab.networks import MLP, DiT, UNet

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


def _conv(weights: dict) -> nn.Conv2d:
    """A 3 x 3 convolution with our kernel (3, 3, in, out) and bias."""
    kernel = torch.tensor(np.asarray(weights["kernel"]).transpose(3, 2, 0, 1)).contiguous()
    layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
    layer.weight.data, layer.bias.data = kernel, torch.tensor(np.asarray(weights["bias"]))
    return layer


def _pointwise(weights: dict) -> nn.Conv2d:
    """Our linear layer over channels as a 1 x 1 convolution."""
    linear = _linear(weights)
    layer = nn.Conv2d(linear.in_features, linear.out_features, 1)
    layer.weight.data, layer.bias.data = linear.weight.data[:, :, None, None], linear.bias.data
    return layer


def _group_norm(weights: dict, groups: int) -> nn.GroupNorm:
    """Group normalisation with our scale and bias; the number of groups as in score_lab.networks.layers.GroupNorm."""
    channels = len(weights["scale"])
    most = max(1, min(groups, channels // 4))
    layer = nn.GroupNorm(max(g for g in range(1, most + 1) if channels % g == 0), channels, eps=1e-6)
    layer.weight.data, layer.bias.data = (torch.tensor(np.asarray(weights[k])) for k in ("scale", "bias"))
    return layer


class TorchAttention(nn.Module):
    """Self-attention over all pixels."""

    def __init__(self, network: UNet, weights: dict):
        super().__init__()
        self.norm, self.heads = _group_norm(weights["norm"], network.groups), network.heads
        self.qkv, self.project = _pointwise(weights["qkv"]), _pointwise(weights["project"])

    def forward(self, h: Tensor) -> Tensor:
        """(batch, channels, h, w)."""
        q, k, v = self.qkv(self.norm(h)).reshape(len(h), 3, self.heads, -1, h.shape[2] * h.shape[3]).transpose(-1, -2).unbind(1)
        return h + self.project(functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(h.shape))


class TorchResBlock(nn.Module):
    """ADM's residual block."""

    def __init__(self, network: UNet, weights: dict, way: str | None):
        super().__init__()
        self.way = way
        self.norm1, self.norm2 = (_group_norm(weights[k], network.groups) for k in ("norm1", "norm2"))
        self.conv1, self.conv2, self.embed = _conv(weights["conv1"]), _conv(weights["conv2"]), _linear(weights["embed"])
        self.skip = _pointwise(weights["skip"]) if "skip" in weights else nn.Identity()
        self.attention = TorchAttention(network, weights["attention"]) if "attention" in weights else nn.Identity()

    def _resample(self, x: Tensor) -> Tensor:
        if self.way is None:
            return x
        return functional.avg_pool2d(x, 2) if self.way == "down" else functional.interpolate(x, scale_factor=2, mode="nearest")

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(batch, channels, h, w)."""
        h = self.conv1(self._resample(functional.silu(self.norm1(x))))
        a, b = self.embed(c)[:, :, None, None].chunk(2, 1)
        h = self.conv2(functional.silu(self.norm2(h) * (1 + a) + b))
        return self.attention(self.skip(self._resample(x)) + h)


class TorchUNet(nn.Module):
    """Our U-Net."""

    def __init__(self, network: UNet, weights: dict):
        super().__init__()
        plain = UNet(width=network.width, multipliers=network.multipliers, blocks=network.blocks, attention_at=(), heads=network.heads)
        if dataclasses.replace(network, num_classes=0) != plain:
            raise ValueError(f"{network}: this U-Net is not written in torch here")
        levels = len(network.multipliers)
        down = [w for i in range(levels) for w in [*[None] * network.blocks, *(["down"] if i < levels - 1 else [])]]
        up = [w for i in reversed(range(levels)) for w in [*[None] * (network.blocks + 1), *(["up"] if i else [])]]
        self.conditioning = Conditioning(weights["conditioning"], network.max_frequency)
        self.inward, self.outward = _conv(weights["inward"]), _conv(weights["outward"])

        def blocks(name: str, ways: list) -> nn.ModuleList:
            return nn.ModuleList([TorchResBlock(network, weights[name][str(k)], way) for k, way in enumerate(ways)])

        self.down, self.middle, self.up = blocks("down", down), blocks("middle", [None, None]), blocks("up", up)
        self.norm = _group_norm(weights["norm"], network.groups)

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """(batch, channels, h, w)."""
        c = functional.silu(self.conditioning(level, label))
        h = self.inward(x)
        kept = [h]
        for block in self.down:
            h = block(h, c)
            kept.append(h)
        for block in self.middle:
            h = block(h, c)
        for block in self.up:
            h = block(h if block.way == "up" else torch.cat([h, kept.pop()], 1), c)
        return self.outward(functional.silu(self.norm(h)))


def torch_network(network: Any, weights: dict, shape: tuple[int, ...]) -> nn.Module:
    """The torch module of ``network`` with ``weights``, for examples of ``shape``."""
    if isinstance(network, UNet):
        module = TorchUNet(network, weights)
    else:
        module = TorchDiT(network, weights, shape) if isinstance(network, DiT) else TorchMLP(network, weights)
    return module.eval().requires_grad_(False)
