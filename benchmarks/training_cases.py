"""What training is timed on: networks, invented data of their shape, the framework's loop and a bare JAX step of the same network.

    mlp     points (2,), 6 residual blocks of 256 units                 unet8   8 x 8 x 1, 48, 48 and 96 channels, 1 block a level, 2.1 M
    dit8    8 x 8 x 1, patches of 2, width 192, 4 blocks, 2.8 M         unet32  32 x 32 x 3, else the same
    dit32   32 x 32 x 3 in patches of 4, else the same

Bare: uniform t, one draw of noise, the flow's mean square error on the raw output, clipping, Adam, one EMA, ``jit`` with donation; ten
steps in a ``lax.scan``, but for convolutions on a CPU, whose weight gradients are some forty times slower inside one.  Framework: what
``experiments.train`` runs, its data pipeline included: nothing is read ahead before the clock starts, batches are made behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.networks import DIT8, MLP2
from configs.digits import get_config
from score_lab.data import ArrayRecords, DataSpec, Source
from score_lab.networks import DiT, UNet
from score_lab.training.feed import Feed, train_stream
from score_lab.training.mesh import Meshed
from score_lab.training.options import ParallelOptions, plain
from score_lab.training.parallel import in_flight, layout_of, slow_in_scan
from score_lab.training.parts import Parts, build_parts
from score_lab.training.state import keys_of

__all__ = ["CASES", "DECAY", "SIGMA_DATA", "Case", "Framework", "Invented", "bare_program", "case_of"]

DECAY, SIGMA_DATA, STEPS = 0.999, 0.75, 10
DIT32 = DiT(patch=4, width=192, depth=4, heads=6, num_classes=10)
UNET = UNet(width=48, multipliers=(1, 1, 2), blocks=1, attention_at=(), num_classes=10)


@dataclasses.dataclass(frozen=True)
class Invented(Source):
    """``n`` examples of ``shape``, normal numbers, with labels of ``classes`` (0: none)."""

    shape: tuple = (8, 8, 1)
    classes: int = 10
    n: int = 2048

    def check(self):
        """Nothing to refuse."""

    def _open(self, split: str) -> ArrayRecords:
        rng = np.random.default_rng(0)
        image = SIGMA_DATA * rng.standard_normal((self.n, *self.shape), np.float32)
        label = rng.integers(self.classes, size=self.n).astype(np.int32) if self.classes else None
        return ArrayRecords(image=image, **({} if label is None else {"label": label}))

    def _spec(self) -> DataSpec:
        return DataSpec(self.shape, self.classes, f"invented {self.shape} {self.n}")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with its data: ``parts`` as a configuration would make them."""

    name: str
    source: Invented
    parts: Parts

    @property
    def network(self) -> Any:
        """That is trained."""
        return self.parts.network

    @property
    def scanned(self) -> int:
        """Steps in one compiled call: ten, or one where a scan is a trap."""
        return 1 if slow_in_scan(self.network) else STEPS


CASES = {
    "mlp": (MLP2, (2,)),
    "dit8": (DIT8, (8, 8, 1)),
    "dit32": (DIT32, (32, 32, 3)),
    "unet8": (UNET, (8, 8, 1)),
    "unet32": (UNET, (32, 32, 3)),
}


def case_of(name: str, network: Any, shape: tuple, batch: int) -> Case:
    """``network`` trained as the digits are, but with one average and no dropout of labels."""
    config = plain(get_config("flow"))
    data = {"target": "benchmarks.training_cases:Invented", "shape": tuple(shape), "classes": network.num_classes}
    config["data"] = data | {"batch_size": batch}
    config["network"] = {"target": f"score_lab.networks:{type(network).__name__}", **dataclasses.asdict(network)}
    config["objective"]["label_dropout"] = 0.0
    config["denoiser"]["sigma_data"] = SIGMA_DATA
    config["training"] |= {"ema": [DECAY], "deterministic": False}
    source = Invented(tuple(shape), network.num_classes)
    return Case(name, source, build_parts(config, source.spec, SIGMA_DATA))


class Framework:
    """The training loop without what it reports: ``run(steps)`` trains on, and returns when the devices are done.

    On ``devices`` by ``jax.pmap``, or by the mesh of ``parallel``.
    """

    def __init__(self, case: Case, devices: int = 1, parallel: ParallelOptions | None = None):
        self.case, self.layout = case, layout_of(case.parts.batch_size, devices=devices)
        if parallel is not None:
            self.layout = Meshed.of(self.layout, parallel)
        self.dispatch = self.layout.dispatch(case.parts)
        self.state = self.layout.fresh(case.parts, 0)
        self.stream = train_stream(case.parts, case.source, self.layout, 0)

    def run(self, steps: int, after: Callable[[int, Any, Any], None] | None = None) -> None:
        """``steps`` more, in dispatches of ``case.scanned``; ``after(step, state, figures)`` is called behind each."""
        counts = [self.case.scanned] * (steps // self.case.scanned)
        flying, done, limit = [], 0, in_flight(self.layout)
        with Feed(self.stream, self.layout, counts, 0, None, keys_of(0)["train"], 2) as feed:
            for batches, _ in feed:
                if len(flying) >= limit:
                    jax.block_until_ready(flying[-limit])
                self.state, figures = self.dispatch(self.state, batches)
                flying.append(figures)
                done += len(figures["loss"])
                if after:
                    after(done, self.state, figures)
        jax.block_until_ready((self.state, flying))


def bare_program(case: Case, steps: int) -> Callable[[], None]:
    """``steps`` hand-written steps as a function without arguments, which returns when they are done; its batches lie ready on the host."""
    parts, network = case.parts, case.network
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(parts.schedule))

    def loss_of(params, x0, cond, key):
        key_t, key_eps = jax.random.split(key)
        t = jax.random.uniform(key_t, (x0.shape[0],))
        eps = jax.random.normal(key_eps, x0.shape)
        a, s = (v.reshape(-1, *(1,) * (x0.ndim - 1)) for v in (1 - t, t))
        root = jnp.sqrt((SIGMA_DATA * a) ** 2 + s**2)
        level = jnp.clip(2 * (jnp.log1p(-t) - jnp.log(t)), -20, 20)
        y = network.apply(params, (a * x0 + s * eps) / root, level, cond)
        return jnp.mean((y - (s / SIGMA_DATA * x0 - SIGMA_DATA * a * eps) / root) ** 2)

    def one(carry, batch):
        params, ema, opt_state, key = carry
        key, now = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_of)(params, batch["x0"], batch.get("cond"), now)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = jax.tree.map(lambda e, p: e + (1 - DECAY) * (p - e), ema, params)
        return (params, ema, opt_state, key), loss

    several = jax.jit(lambda carry, stacked: jax.lax.scan(one, carry, stacked), donate_argnums=0)
    single = jax.jit(one, donate_argnums=0)
    params = network.init(jax.random.key(0), parts.spec.shape)
    held = [(params, jax.tree.map(jnp.copy, params), optimizer.init(params), jax.random.key(1))]
    stream = train_stream(parts, case.source, layout_of(parts.batch_size), 0)
    host = [next(stream) for _ in range(case.scanned)]

    def run() -> None:
        for _ in range(steps // case.scanned):
            if case.scanned == 1:
                held[0], losses = single(held[0], host[0])
            else:
                held[0], losses = several(held[0], jax.tree.map(lambda *x: np.stack(x), *host))
        jax.block_until_ready((held[0], losses))

    return run
