"""Package metadata.  Floors are the oldest versions tried together (constraints/floors-py311.txt); constraints/ also holds later ones."""

from setuptools import find_packages, setup

REQUIRED = [
    "jax>=0.10",
    "flax>=0.12.6",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "ml-collections>=1.1",
    "tensorflow-datasets>=4.9.10",
    "array_record>=0.8.3",  # read by tensorflow-datasets' as_data_source
    "importlib_resources>=6.5",  # imported by tensorflow-datasets, which forgets to declare it
    "grain>=0.2.16",
    "diffrax>=0.7.2",
    "jaxtyping>=0.3.7",
    "numpy>=2.1",
    "scipy>=1.15",
    "scikit-learn>=1.6",
    "matplotlib>=3.10",
    "pillow>=11.1",
    "tensorboardX>=2.6.4",
    "absl-py>=2.3.1",
]

EXTRAS = {
    "cuda12": ["jax[cuda12]>=0.10"],
    "cuda13": ["jax[cuda13]>=0.10"],
    "tpu": ["jax[tpu]>=0.10"],
    "dev": [
        "pytest>=8.4", "pytest-xdist>=3.8", "ruff>=0.14", "import-linter>=2.11", "beartype>=0.22", "hypothesis>=6.140", "submitit>=1.5",
    ],  # fmt: skip
    # What the benchmarks run beside ours; flow_matching made fixtures.  k-diffusion comes with `pip install --no-deps k-diffusion`: one
    # of its requirements asks for numpy < 2, and its samplers need nothing that is not listed here.
    "peers": ["torch>=2.13", "diffusers>=0.42.1", "azula>=0.11.1", "torchdiffeq>=0.2.5", "torchsde>=0.2.6", "flow_matching>=1.0.10"],
    "sweep": ["submitit>=1.5"],
    "zarr": ["zarr>=3"],
}

setup(
    name="score-lab",
    version="0.1.0",
    description="Score-based and flow-matching generative models in JAX: one network, any Gaussian path, and the SNR mismatch measured",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["score_lab", "score_lab.*", "experiments", "experiments.*", "configs", "configs.*"]),
    install_requires=REQUIRED,
    extras_require=EXTRAS,
)
