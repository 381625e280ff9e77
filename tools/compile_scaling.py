"""Compiles a training step for a mesh that is not there, and says what each device would hold and exchange; nothing is run.

    python tools/compile_scaling.py                                  # DiT-XL/2 on ImageNet-512's latents, 256 devices
    python tools/compile_scaling.py --devices 16 --fsdp 16 --size B --side 32 --batch 64 --remat full

As many CPU devices as asked for are forced on this machine, and XLA partitions the step for them: bytes of parameters, optimizer and
averages on a device, of everything that the program needs there, and the collectives of a step with the bytes of their results there.
Temporaries are those of XLA's schedule for a CPU, in float32 where bfloat16 is asked for.  XLA is kept from dropping the barriers that hold
back what the backward pass computes or gathers once more until it is needed, as on accelerators.
"""

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=256)
    parser.add_argument("--fsdp", type=int, nargs="+", default=(1, 16, 128), help="each is compiled")
    parser.add_argument("--size", default="XL", help="of DiT: S, B, L, XL")
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--side", type=int, default=64, help="of the latents: 64 for 512 pixels")
    parser.add_argument("--batch", type=int, default=1024, help="examples of an update, over all devices")
    parser.add_argument("--remat", help="what the backward pass computes again: full, or a policy of jax.checkpoint_policies by name")
    return parser.parse_args()


def config_of(args: argparse.Namespace, fsdp: int) -> dict:
    """Linear flow, velocity, AdamW in float32, two averages, the network in bfloat16."""
    from score_lab.networks.dit import SIZES

    network = {"target": "DiT", "patch": args.patch, "num_classes": 1000, "dtype": "bfloat16", "remat": args.remat, **SIZES[args.size]}
    return {
        "data": {"target": "Toy", "batch_size": args.batch}, "path": {"target": "LinearFlow"}, "target": {"target": "Velocity"},
        "network": network, "denoiser": {"sigma_data": 0.5},
        "objective": {"target": "Regression", "time_law": {"target": "LogitNormal"}, "label_dropout": 0.1},
        "optimizer": {"name": "adamw", "learning_rate": 1e-4, "clip": 1.0}, "training": {"steps": 1, "ema": (0.999, 0.9999)},
        "parallel": {"fsdp": fsdp},
    }  # fmt: skip


def held(tree: Any) -> int:
    """Bytes of ``tree`` on one device."""
    import jax

    return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree))


def compiled(args: argparse.Namespace, fsdp: int) -> None:
    """One row."""
    import jax
    import jax.numpy as jnp

    from score_lab.cost.collectives import collectives
    from score_lab.data import DataSpec
    from score_lab.training.mesh import Meshed
    from score_lab.training.options import parallel_of
    from score_lab.training.parallel import layout_of
    from score_lab.training.parts import build_parts
    from score_lab.training.state import abstract_state

    config = config_of(args, fsdp)
    shape = (args.side, args.side, 4)
    parts = build_parts(config, DataSpec(shape, 1000, "none"), 0.5)
    layout = Meshed.of(layout_of(args.batch), parallel_of(config))
    state = layout.like(abstract_state(parts))
    rows = {"x0": (shape, jnp.float32), "index": ((), jnp.int32), "label": ((), jnp.int32)}
    batch = {k: jax.ShapeDtypeStruct((1, 1, args.batch, *m), t, sharding=layout.sharding) for k, (m, t) in rows.items()}
    batch["cond"] = {"label": batch.pop("label")}
    start = time.perf_counter()
    options = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": "cse_barrier_expander"}
    program = layout.dispatch(parts).lower(state, batch).compile(compiler_options=options)
    took, memory = time.perf_counter() - start, program.memory_analysis()

    numbers = sum(x.size for x in jax.tree.leaves(state.params))
    sizes = [held(tree) / 2**30 for tree in (state.params, state.opt_state, state.ema)]
    print(f"fsdp {fsdp} on {args.devices} devices, {numbers / 1e6:.0f} M parameters, batch {args.batch}; compiled in {took:.0f} s")
    print("  GiB on a device: parameters {:.3f}, optimizer {:.3f}, averages {:.3f};".format(*sizes), end=" ")
    print(f"arguments {memory.argument_size_in_bytes / 2**30:.3f}, temporaries {memory.temp_size_in_bytes / 2**30:.2f}")
    found = collectives(program.as_text())
    for kind in dict.fromkeys(one.kind for one in found):
        moved = [one.moved for one in found if one.kind == kind]
        print(f"  {kind}: {len(moved)} a step, {sum(moved) / 2**30:.3f} GiB")
    sys.stdout.flush()


def main() -> None:
    """Compiles one after another."""
    args = arguments()
    flags = f"--xla_force_host_platform_device_count={args.devices} --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    for fsdp in args.fsdp:
        compiled(args, fsdp)


if __name__ == "__main__":
    main()
