"""Networks on Flax NNX, the only room that knows it: MLP for vectors, UNet, EDM2 (magnitude-preserving) and DiT for images."""

from score_lab.networks.base import count_parameters
from score_lab.networks.dit import DiT
from score_lab.networks.edm2 import EDM2
from score_lab.networks.mlp import MLP
from score_lab.networks.unet import UNet

__all__ = ["EDM2", "MLP", "DiT", "UNet", "count_parameters"]
