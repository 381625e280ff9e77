"""Records what NVIDIA's own network gives: outputs of ``training/networks_edm2.py`` of the repository NVlabs/edm2, in float64 on a CPU.

    python tests/networks/edm2_record.py CHECKOUT        with torch; CHECKOUT holds the repository; writes edm2.npz beside this file

edm2.npz is of commit 4bf8162f601bcc09472ce8a32dd0cbe8889dc8fc and torch 2.15.0: an array (batch, height, width, channels) per case below.
Parameters and inputs follow from names and shapes alone (``drawn``), so that the tests make them again without torch.

The module's ``torch.float32`` is float64 while it is run, and its raw weights are 1e8 times those of the rule, so that the 1e-4 that it
adds to the magnitude of a weight before it divides by it is nothing (ours adds none; that of pixel norm is in both).  Its frequencies
and phases, which it draws, are set to ours.  The rows of labels are those of a network of one class more: ours is "no label".
"""

from __future__ import annotations

import re
import sys
import types
import zlib
from pathlib import Path

import numpy as np

COMMIT = "4bf8162f601bcc09472ce8a32dd0cbe8889dc8fc"
FILE = Path(__file__).with_name("edm2.npz")
BATCH = 3
CASES = {
    "labels": (
        {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention_at": (8,), "head_width": 4, "num_classes": 4},
        (8, 8, 3),
    ),
    "balances": (
        {
            "width": 6, "multipliers": (1, 2, 1), "blocks": 2, "attention_at": (), "head_width": 3, "residual_balance": 0.4,
            "attention_balance": 0.6, "skip_balance": 0.3, "clip": 0.7,
        },
        (8, 8, 2),
    ),
}  # fmt: skip
"""Fields of our EDM2, and the shape of an image."""


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that are a function of name and shape (NumPy's old generator, whose stream does not change)."""
    return np.random.RandomState(zlib.crc32(name.encode())).normal(size=shape)


def gain(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A learned gain, away from 0."""
    return 1.0 + 0.3 * drawn(name, shape)


def inputs(case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (batch, height, width, channels), levels and labels, -1 among them, (batch,)."""
    fields, shape = CASES[case]
    label = np.arange(-1, BATCH - 1) if fields.get("num_classes") else np.full(BATCH, -1)
    return drawn(f"{case} x", (BATCH, *shape)), 4.0 * drawn(f"{case} level", (BATCH,)), label


def theirs(name: str, first: str) -> str:
    """Our name of their parameter; ``first`` is the name of their first layer, a convolution."""
    outer = {"emb_noise.weight": "conditioning.level.kernel", "emb_label.weight": "conditioning.table", "out_gain": "gain"}
    outer |= {"out_conv.weight": "outward.kernel", f"enc.{first}.weight": "inward.kernel"}
    inner = {"conv_res0": "conv1", "conv_res1": "conv2", "emb_linear": "embed", "conv_skip": "skip"}
    inner |= {"attn_qkv": "attention.qkv", "attn_proj": "attention.project"}
    if name in outer:
        return outer[name]
    place, _, rest = name.rpartition(".") if name.endswith("emb_gain") else re.fullmatch(r"(.*\.\d+)(\.)(\w+)\.weight", name).groups()
    return f"{place}.gain" if rest == "emb_gain" else f"{place}.{inner[rest]}.kernel"


def laid_out(name: str, shape: tuple[int, ...], heads_of: int) -> np.ndarray:
    """Our parameter ``name`` in their layout, of their ``shape``: outputs first; of a head's queries, keys and values, these last."""
    if len(shape) == 0:
        return gain(name, (1,) if name == "gain" else ()).reshape(())
    own = drawn(name, (*shape[2:], shape[1], shape[0]) if len(shape) == 4 and shape[2] == 3 else (shape[1], shape[0]))
    if name.endswith("qkv.kernel"):
        own = own.reshape(len(own), 3, -1, heads_of).transpose(0, 2, 3, 1).reshape(len(own), -1)
    return 1e8 * np.moveaxis(own, (-1, -2), (0, 1)).reshape(shape)


def record(case: str, torch, module, frequencies) -> np.ndarray:
    """Their network's outputs for ``case``."""
    fields, (height, _, channels) = CASES[case]
    rows = fields["num_classes"] + 1 if fields.get("num_classes") else 0
    renamed = {"residual_balance": "res_balance", "attention_balance": "attn_balance", "skip_balance": "concat_balance", "clip": "clip_act"}
    network = module.UNet(
        height, channels, rows, model_channels=fields["width"], channel_mult=list(fields["multipliers"]), num_blocks=fields["blocks"],
        attn_resolutions=list(fields["attention_at"]), channels_per_head=fields["head_width"],
        **{there: fields[here] for here, there in renamed.items() if here in fields},
    ).eval()  # fmt: skip
    first, *down = network.enc.keys()
    places = {f"enc.{key}": f"down.{k}" for k, key in enumerate(down)}
    middle = [key for key in network.dec if re.search(r"_in\d$", key)]
    places |= {f"dec.{key}": f"middle.{k}" for k, key in enumerate(middle)}
    places |= {f"dec.{key}": f"up.{k}" for k, key in enumerate(key for key in network.dec if key not in middle)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            place = next((p for p in places if name.startswith(p + ".")), "")
            own = theirs(name.replace(place, places[place], 1) if place else name, first)
            parameter.copy_(torch.from_numpy(np.asarray(laid_out(own, tuple(parameter.shape), fields["head_width"]))))
        for buffer, values in zip((network.emb_fourier.freqs, network.emb_fourier.phases), frequencies, strict=True):
            buffer.copy_(torch.from_numpy(values))
        x, level, label = inputs(case)
        onehot = torch.eye(max(rows, 1), dtype=torch.float64)[torch.from_numpy(label + 1)]
        y = network(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(level), onehot)
    return y.permute(0, 2, 3, 1).numpy()


def main(checkout: str) -> None:
    """Writes FILE."""
    import torch

    from score_lab.networks.edm2 import EDM2
    from score_lab.networks.edm2_layers import frequencies_and_phases

    sys.path.insert(0, checkout)
    torch.set_default_dtype(torch.float64)
    from training import networks_edm2 as module

    module.torch = types.SimpleNamespace(**{**vars(torch), "float32": torch.float64})
    made = {}
    for case, (fields, _) in CASES.items():
        network = EDM2(**fields)
        made[case] = record(case, torch, module, frequencies_and_phases(network.features, network.max_frequency))
    np.savez_compressed(FILE, **made)
    print({case: float(np.sqrt(np.mean(y**2))) for case, y in made.items()})


if __name__ == "__main__":
    main(sys.argv[1])
