"""A training step in torch of the networks of ``torch_networks``: the bare JAX step's loss, clipping, Adam, one EMA; eager or compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.peers.torch_networks import torch_network
from benchmarks.training_cases import DECAY, SIGMA_DATA, Case
from score_lab.training.feed import train_stream
from score_lab.training.parallel import layout_of

__all__ = ["torch_program"]


def loss_of(network: Any, x0: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The flow's mean square error of the row F, uniform t."""
    t = torch.rand(len(x0))
    a, s = (v.reshape(-1, *[1] * (x0.ndim - 1)) for v in (1 - t, t))
    eps = torch.randn_like(x0)
    root = torch.sqrt((SIGMA_DATA * a) ** 2 + s**2)
    level = torch.clip(2 * (torch.log1p(-t) - torch.log(t)), -20, 20)
    y = network((a * x0 + s * eps) / root, level, label)
    return torch.mean((y - (s / SIGMA_DATA * x0 - SIGMA_DATA * a * eps) / root) ** 2)


def torch_program(case: Case, steps: int, compiled: bool) -> Callable[[], None]:
    """``steps`` steps as a function without arguments; its batches lie ready."""
    import jax

    params = case.network.init(jax.random.key(0), case.parts.spec.shape)
    network = torch_network(case.network, params, case.parts.spec.shape).train().requires_grad_(True)
    weights = list(network.parameters())
    average = [p.detach().clone() for p in weights]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    stream = train_stream(case.parts, case.source, layout_of(case.parts.batch_size), 0)
    batch = next(stream)
    x0 = torch.tensor(np.asarray(batch["x0"]))
    x0 = torch.movedim(x0, -1, -3).contiguous() if x0.ndim == 4 else x0
    label = torch.tensor(np.asarray(batch["cond"]["label"])).long() if "cond" in batch else torch.zeros(len(x0), dtype=torch.long)
    loss = torch.compile(loss_of) if compiled else loss_of

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss(network, x0, label).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, [p.detach() for p in weights], 1 - DECAY)

    return run
