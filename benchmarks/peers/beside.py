"""The peers' samplers and ours in turn, on the same network and noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.networks import BATCH, DIT8, MLP2, SHAPES, weights
from benchmarks.options import Options
from benchmarks.pairs import interleaved
from benchmarks.peers.matches import Match, matches_of_all
from benchmarks.peers.torch_networks import torch_network
from score_lab.build import refuse
from score_lab.denoiser import NetworkDenoiser
from score_lab.samplers import sample
from score_lab.types import leaf, pytree_dataclass

AGREE = 1e-4
PAUSE = 0.005
"""Seconds before each timed run: torch's idle threads spin for about one millisecond after their work."""
LABELS = np.arange(BATCH) % 10


@pytree_dataclass
class Bank:
    """Draw 0 of step k is ``noises[k]``."""

    noises: Any = leaf()

    def __call__(self, step, call, like):
        return jnp.asarray(self.noises)[step]


def to_torch(x: np.ndarray) -> torch.Tensor:
    """Images with their channels first."""
    x = torch.tensor(np.asarray(x, np.float32))
    return torch.movedim(x, -1, -3).contiguous() if x.ndim >= 4 else x


def from_torch(x: torch.Tensor) -> np.ndarray:
    """Images with their channels last."""
    return (torch.movedim(x, -3, -1) if x.ndim >= 4 else x).numpy()


def difference(network: Any, params: Any, module: Any) -> float:
    """The largest difference of both networks' outputs over the largest output, at 64 levels from -20 to 20."""
    x = np.random.default_rng(0).standard_normal((BATCH, *SHAPES[network])).astype(np.float32)
    level = np.linspace(-20, 20, BATCH, dtype=np.float32)
    cond = {"label": jnp.asarray(LABELS)} if network.num_classes else None
    ours = np.asarray(network.apply(params, jnp.asarray(x), jnp.asarray(level), cond))
    theirs = from_torch(module(to_torch(x), torch.tensor(level), torch.tensor(LABELS)))
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def row(match: Match, network: Any, params: Any, module: Any, pairs: int) -> str:
    """One line: samples a second of both, their ratio, and how far the last states are apart."""
    denoiser = NetworkDenoiser(params, network, match.path, match.target, match.sigma_data)
    cond = {"label": jnp.asarray(LABELS)} if network.num_classes else None
    steps = match.grid.steps(match.path)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((BATCH, *SHAPES[network])).astype(np.float32)
    bank = rng.standard_normal((len(steps.t), *noise.shape)).astype(np.float32)
    x_T, x_torch, bank_torch = jnp.asarray(match.scale * noise), to_torch(noise), [to_torch(z) for z in bank]
    draws = Bank(jnp.asarray(bank)) if match.draws else None
    run = match.theirs(module, torch.tensor(LABELS))

    def theirs():
        with torch.no_grad():
            return run(x_torch, bank_torch)

    def ours():
        return jax.block_until_ready(sample(denoiser, match.sampler, steps, x_T=x_T, cond=cond, noise=draws))

    mine = ours()
    if match.sampler.stochastic and not match.draws:
        apart = "other noise"
    else:
        apart = f"{np.abs(np.asarray(mine.x) - from_torch(theirs())).max() / np.abs(mine.x).max():.1e}"
    r = interleaved(match.name, theirs, ours, pairs, warmup=1, pause=PAUSE)
    speeds = f"{BATCH / r.a:10.0f} {BATCH / r.b:10.0f} {r.ratio:7.2f}   {r.low:5.2f} to {r.high:5.2f}"
    return f"{r.name:44s} {int(mine.nfe):4d} {speeds}   {apart}"


def chosen(words: tuple[str, ...], matches: list[Match], missing: list[str]) -> list[Match]:
    """The matches whose name contains one of ``words``; all of them without words."""
    found = [m for m in matches if not words or any(word.lower() in m.name.lower() for word in words)]
    if not found and not missing:
        names = [m.name for m in matches]
        refuse("--peers", " ".join(words), f"parts of {'; '.join(names)}", names)
    return found


def measure(options: Options) -> Iterator[str]:
    """Both networks, every match; a line for each peer that is not here, or whose run fails."""
    matches, missing = matches_of_all()
    yield from missing
    matches = chosen(options.peers, matches, missing)
    yield f"torch {torch.__version__} with {torch.get_num_threads()} threads, batch {BATCH}, float32; ratio: seconds of theirs over ours"
    for name, network in (("mlp", MLP2), ("dit8", DIT8)):
        if options.networks and name not in options.networks:
            continue
        params = weights(network)
        module = torch_network(network, params, SHAPES[network])
        apart = difference(network, params, module)
        if not apart <= AGREE:
            raise AssertionError(f"{name}: torch's network and ours differ by {apart:.1e} of the largest output, more than {AGREE}")
        head = f"{name}: both networks agree to {apart:.0e}"
        yield f"{head:44s} {'NFE':>4s} {'samples/s':>10s} {'ours':>10s} {'ratio':>7s}   95 % interval   last states apart"
        for match in matches:
            try:
                yield row(match, network, params, module, options.pairs)
            except Exception as error:  # a peer of another version is a line of this table, not its end
                yield f"{match.name:44s} cannot be run: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
