"""config -> the parts of a run: path, target, network, objective, coupling, augmentation, optimizer; and the one place where a denoiser is
put together.

The same function serves training, where ``params`` are traced, and loading, where they come from a checkpoint.  The denoiser of an
objective with the class attributes ``level`` and ``two_time`` is built with them, on the learned path of an objective that has
``path(params)``.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from score_lab.build import ConfigError, build, refuse, within
from score_lab.data import DataSpec
from score_lab.denoiser import LEVEL_LIMIT, NetworkDenoiser, trained_range, written_out
from score_lab.paths.base import GaussianPath
from score_lab.targets import Target
from score_lab.training.groups import check_groups, patterns_of
from score_lab.training.names import named
from score_lab.training.optimizer import PROBE, make_optimizer
from score_lab.training.options import DenoiserOptions, TrainingOptions, check_sections, data_options, options_of
from score_lab.training.schedule_free import check_evaluated
from score_lab.types import Array, Batch, Network, PyTree

__all__ = ["Parts", "anywhere", "build_parts", "measure_sigma_data"]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything that a configuration describes, built and checked; ``config`` is the plain configuration itself.

    Attributes:
      spec: shape, number of classes and fingerprint of the data.
      sigma_data: the number that was given, or measured.
      batch_size: examples of one update, over all devices and processes.
      schedule: the learning rate as a function of the step.
      log_snr_range: (low, high), what the network is trained on.
      origin: what a run that starts from another workdir comes from (finetune.py); None for one that does not, and in what is loaded.
      augment: what is done to every training example, None for nothing.
    """

    config: Mapping[str, Any]
    options: TrainingOptions
    spec: DataSpec
    sigma_data: float
    batch_size: int
    path: GaussianPath
    target: Target
    network: Network
    objective: Any
    coupling: Any
    optimizer: optax.GradientTransformation
    schedule: Callable
    log_snr_range: tuple[float, float]
    origin: Mapping[str, Any] | None = None
    augment: Any = None

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """``({"network": ..., "objective": ...}, state of the objective)``, drawn with ``key``."""
        network_key, objective_key = jax.random.split(key)
        own, state = self.objective.init(objective_key, self.spec)
        return {"network": self.network.init(network_key, self.spec.shape), "objective": own}, state

    def shapes(self) -> PyTree:
        """Shapes and dtypes of what ``init`` draws for training; nothing is computed."""
        return jax.eval_shape(lambda key: self.init(key)[0], jax.random.key(0))

    def augmented(self, key: Array, batch: Batch) -> Batch:
        """``batch`` with its examples augmented, keyed by ``key`` and their global indices, and ``cond["augment"]`` that says how."""
        if self.augment is None:
            return batch
        x0, label = self.augment(key, batch["index"], batch["x0"])
        return {**batch, "x0": x0, "cond": {**(batch.get("cond") or {}), "augment": label}}

    def path_of(self, params: PyTree) -> GaussianPath:
        """The path: the objective's own where it learns one, else that of the configuration."""
        return self.objective.path(params["objective"]) if hasattr(self.objective, "path") else self.path

    def with_range(self, params: PyTree) -> Parts:
        """The parts with the log_snr range of the path that ``params`` (concrete) have learned, where the objective learns one."""
        if not hasattr(self.objective, "path"):
            return self
        log_snr_range = _range(self.path_of(params), self.target, self.objective, options_of(self.config)[1])
        return dataclasses.replace(self, log_snr_range=log_snr_range)

    def denoiser(self, params: PyTree) -> NetworkDenoiser:
        """The network with ``params`` as a denoiser."""
        return NetworkDenoiser(
            params=params["network"],
            network=self.network,
            path=self.path_of(params),
            target=self.target,
            sigma_data=self.sigma_data,
            log_snr_range=self.log_snr_range,
            level=getattr(self.objective, "level", "log_snr"),
            two_time=getattr(self.objective, "two_time", False),
        )


def build_parts(config: Mapping[str, Any], spec: DataSpec, sigma_data: float) -> Parts:
    """The parts of the plain ``config`` for data of ``spec``; nothing is compiled.  Raises ConfigError naming the field."""
    check_sections(config)
    options, denoiser_options = options_of(config)
    path = build(config["path"], "score_lab.paths", "config.path", needs=("alpha", "sigma", "time_of"))
    target = build(config["target"], "score_lab.targets", "config.target", needs=("row",), sigma_data=sigma_data)
    objective = build(config["objective"], "score_lab.objectives", "config.objective", needs=("init", "loss"))
    augment = _augment(config, spec)
    network = _network(config, spec, objective, augment)
    coupled = config.get("coupling") is not None
    coupling = build(config["coupling"], "score_lab.objectives", "config.coupling", needs=("__call__",)) if coupled else None
    unit_magnitude = [f"network.{pattern}" for pattern in getattr(network, "unit_magnitude", ())]
    optimizer, schedule = make_optimizer(config["optimizer"], options.steps, unit_magnitude)
    parts = Parts(
        config=config,
        options=options,
        spec=spec,
        sigma_data=sigma_data,
        batch_size=data_options(config)[1]["batch_size"],
        path=path,
        target=target,
        network=network,
        objective=objective,
        coupling=coupling,
        optimizer=optimizer,
        schedule=schedule,
        log_snr_range=_range(path, target, objective, denoiser_options),
        augment=augment,
    )
    _check_labels(parts)
    _check_optimizer(parts)
    parts.denoiser({"network": None, "objective": None} if not hasattr(objective, "path") else _host_init(parts)).check()
    return parts


def anywhere(parts: Parts) -> Parts:
    """``parts`` of a run for whatever device is here: attention that was trained by cuDNN alone is by XLA where there is none."""
    if getattr(parts.network, "attention", None) != "cudnn":
        return parts
    return dataclasses.replace(parts, network=dataclasses.replace(parts.network, attention="auto"))


def measure_sigma_data(source: Any, most: int = 10_000) -> float:
    """Root mean square of ``x0`` about zero over at most ``most`` examples, evenly spread over the training split."""
    from score_lab.data.source import gather

    records = source("train")
    rows = np.unique(np.linspace(0, len(records) - 1, min(most, len(records))).astype(np.int64))
    total, count = 0.0, 0
    for part in np.array_split(rows, -(-len(rows) // 512)):
        x0 = source.preprocess(gather(records, part))["x0"]
        total, count = total + float(np.sum(np.square(x0, dtype=np.float64))), count + x0.size
    return float(np.sqrt(total / count))


def _augment(config: Mapping[str, Any], spec: DataSpec) -> Any:
    """``config.augment`` built for examples of ``spec``, or None."""
    if config.get("augment") is None:
        return None
    augment = build(config["augment"], "score_lab.objectives", "config.augment", needs=("size", "check_shape", "__call__"))
    augment.check_shape(spec.shape)
    if config.get("coupling") is not None:
        refuse("config.augment", type(augment).__name__, "None where config.coupling pairs examples with noise, before they are augmented")
    return augment


def _network(config: Mapping[str, Any], spec: DataSpec, objective: Any, augment: Any) -> Network:
    """The network, told of two times, of forward-mode derivatives and of an augmentation's label where they are needed, and able to take
    the data's shape.
    """
    two_time = {"two_time": True} if getattr(objective, "two_time", False) else {}
    numbers = {"augment_dim": augment.size} if augment is not None else {}
    network = build(config["network"], "score_lab.networks", "config.network", needs=("init", "apply"), **two_time, **numbers)
    _check_apply(network, config["network"])
    if two_time and getattr(network, "two_time", True) is False:
        refuse("config.network.two_time", False, f"True: {type(objective).__name__} trains a network that is told two times")
    asked, there = (augment.size if augment is not None else 0), getattr(network, "augment_dim", 0)
    if asked != there:
        told = f"{asked}, what config.augment tells the network" if asked else "0: there is no config.augment"
        refuse("config.network.augment_dim", there, told)
    if getattr(objective, "forward_mode", False):
        network = written_out(network)
    if getattr(objective, "learned_variance", False) and getattr(network, "learned_variance", True) is False:
        refuse("config.network.learned_variance", False, f"True: {type(objective).__name__} trains a variance too")
    if hasattr(network, "check_shape"):
        try:
            network.check_shape(spec.shape)
        except ConfigError as error:
            raise within("config.network", error, vars(network)) from None
    return network


def _check_apply(network: Network, named: Any) -> None:
    """Refuses a network whose ``apply`` cannot be called as a denoiser calls it (types.Network)."""
    try:
        inspect.signature(network.apply).bind(None, None, None, None, level_s=None, key=None)
    except TypeError as error:
        called = "apply(params, x, level, cond, level_s=None, key=None), which is how a network is called"
        refuse("config.network", named, f"a network with the method {called}: of {type(network).__name__}, {error}")


def _range(path: GaussianPath, target: Target, objective: Any, options: DenoiserOptions) -> tuple[float, float]:
    """What is trained: the path's log-SNRs from ``log_snr_min`` on, within those that the objective's time law reaches."""
    low, high = trained_range(path, target, options.log_snr_min)
    law = getattr(objective, "time_law", None)
    if hasattr(law, "log_snr_range"):
        law_low, law_high = law.log_snr_range(path)
        low, high = max(low, float(law_low)), min(high, float(law_high))
    if not low < min(high, LEVEL_LIMIT):
        allowed = f"below {min(high, LEVEL_LIMIT):.4g}, the highest log-SNR that is trained on {type(path).__name__}"
        refuse("config.denoiser.log_snr_min", options.log_snr_min, allowed)
    return low, high


def _check_labels(parts: Parts) -> None:
    """Refuses a network that wants labels which the data have not, other numbers of them, and dropout of labels that nobody reads."""
    asked, there = getattr(parts.network, "num_classes", None), parts.spec.num_classes
    if asked and not there:
        refuse("config.network.num_classes", asked, "0: the data have no labels")
    if asked and asked != there:
        refuse("config.network.num_classes", asked, f"{there}, the number of classes of the data, or 0 for an unconditional network")
    rate = getattr(parts.objective, "label_dropout", 0.0)
    if rate and not (there if asked is None else asked):
        refuse("config.objective.label_dropout", rate, "0: the network is unconditional (config.network.num_classes = 0)")


def _check_optimizer(parts: Parts) -> None:
    """Refuses patterns of no leaf, and a schedule-free run that is evaluated where it trains."""
    config, shapes = parts.config["optimizer"], PROBE
    if any(patterns_of(config)) or ":" in config["name"]:
        shapes = parts.shapes()
        check_groups(config, list(named(shapes)))
    try:
        state = jax.eval_shape(parts.optimizer.init, shapes)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"config.optimizer: {config['name']!r} cannot begin with these leaves: {' '.join(str(error).split())}") from None
    check_evaluated(parts.options.ema, state)


def _host_init(parts: Parts) -> PyTree:
    """Parameters of the objective alone, for the check of a denoiser on a learned path."""
    own, _ = parts.objective.init(jax.random.key(0), parts.spec)
    return {"network": None, "objective": own}
