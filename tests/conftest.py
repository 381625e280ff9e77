"""The strict session: four CPU devices, rank promotion an error, shapes and types checked in every call, no network.

Read tests/README.md first.  What stands above the imports must happen before jax starts.
"""

import gc
import itertools
import os
import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FLAGS = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # tests compile more than they compute
_QUICK += " --xla_cpu_parallel_codegen_split_count=1"  # small programs, and two processes have the cores: a quarter of a compilation
if tuple(map(int, metadata.version("jaxlib").split(".")[:3])) <= (0, 11, 0):  # later ones have no others, and take 1.8 times as long
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{_QUICK} {_FLAGS} --xla_force_host_platform_device_count=4".strip()
XLA_FLAGS = os.environ["XLA_FLAGS"]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.pop("JAX_ENABLE_X64", None)

import hypothesis  # noqa: E402
import jaxtyping  # noqa: E402

jaxtyping.install_import_hook("score_lab", "strict_types.check")

import jax  # noqa: E402
import network_guard  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25, database=None)
hypothesis.settings.load_profile("suite")
gc.set_threshold(200_000, 20, 20)  # tracing makes many objects that live on: looking for garbage among them is 3 % of the suite


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Forms of a parametrised test that show again what its other forms show are slow: those that ``slow_variants.txt`` lists."""
    listed = set((ROOT / "tests" / "slow_variants.txt").read_text().splitlines())
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def x64():
    """Float64 for one test: ``jnp.asarray(0.5)`` inside it is a float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _rank_promotion(request):
    """Rank promotion is an error, but in a test marked ``rank_promotion_allowed`` (other people's code does it there)."""
    if request.node.get_closest_marker("rank_promotion_allowed") is None:
        yield
        return
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def _flags_of_this_test():
    """What a launcher that was run in this process adds to XLA_FLAGS ends with the test: a later one starts processes with them."""
    yield
    os.environ["XLA_FLAGS"] = XLA_FLAGS


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
    """A program that is compiled again (another test makes the same, or it was dropped: below) is read from a folder of this process, in
    half the time; writing it costs nothing to speak of.  JAX writes a file in place, so two processes do not share one.  Where the user
    keeps programs elsewhere, they are kept there.
    """
    if jax.config.jax_compilation_cache_dir:
        yield
        return
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path_factory.mktemp("compiled")))
    jax.config.update(names[1], 0)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


_MOST_MAPPINGS, _EVERY = 5_000, 20
_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _programs_are_dropped():
    """A compiled program holds about six memory mappings, of which Linux allows a process 65530 (vm.max_map_count) and beyond which jaxlib
    crashes: the suite compiles more than that in one process, so what it has compiled is dropped now and then."""
    yield
    maps = Path("/proc/self/maps")
    if next(_tests) % _EVERY == 0 and maps.is_file() and maps.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A test that tries to reach another machine fails, even where the library under test swallows the exception."""
    tried = network_guard.install(monkeypatch)
    yield
    assert not tried, f"this test tried to reach {', '.join(tried)}: tests use no network"
