"""The strict session is strict: each of its promises has a test that would fail without it."""

import http.client
import os
import socket
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import network_guard
import pytest

from score_lab.build import nearest
from score_lab.paths import VP, LinearFlow
from score_lab.targets import X0, Eps, loses_signal


def test_four_cpu_devices():
    assert jax.default_backend() == "cpu" and jax.device_count() == 4


def test_rank_promotion_is_an_error():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((3, 2)) + jnp.ones(2)


@pytest.mark.rank_promotion_allowed
def test_rank_promotion_can_be_allowed():
    assert (jnp.ones((3, 2)) + jnp.ones(2)).shape == (3, 2)


def test_float32_is_the_default():
    assert jnp.asarray(0.5).dtype == jnp.float32


def test_x64_is_for_one_test(x64):
    assert jnp.asarray(0.5).dtype == jnp.float64


def test_a_program_is_compiled_once():
    """Another function of the same operations adds nothing to what is kept, one of others does."""
    folder, added = Path(jax.config.jax_compilation_cache_dir), []
    for number in (2.5, 2.5, 3.5):
        before = set(folder.iterdir())
        jax.jit(lambda x, number=number: x * number + 1.25)(jnp.zeros((3, 5, 7))).block_until_ready()
        added.append(len(set(folder.iterdir()) - before))
    assert added[0] > 0 == added[1] < added[2]


def test_types_are_checked_inside_score_lab():
    with pytest.raises(jaxtyping.TypeCheckError, match="name"):
        nearest(3, ["3"])  # str(3) would do without the check


def test_a_part_may_hold_tracers_and_sentinels():
    path = VP(0.1, 20.0)
    traced = jax.jit(lambda path, t: path.alpha(t))(path, jnp.full(3, 0.5))
    assert traced.shape == (3,) and jnp.allclose(traced, path.alpha(jnp.full(3, 0.5)))
    assert jax.vmap(lambda path: path.beta_max, in_axes=(VP(None, None),), axis_size=3)(path).shape == (3,)
    assert jax.tree.map(lambda _: None, path) == VP(None, None)


@pytest.mark.parametrize("number", [1, 2])
def test_flags_that_a_launcher_adds_are_not_those_of_the_next_test(number):
    """Whichever of the two is the second one."""
    assert "--xla_of_the_other" not in os.environ["XLA_FLAGS"] and "device_count=4" in os.environ["XLA_FLAGS"]
    os.environ["XLA_FLAGS"] += f" --xla_of_the_other={number}"


def test_another_machine_is_out_of_reach(monkeypatch):
    tried = network_guard.install(monkeypatch)
    with pytest.raises(network_guard.NetworkUsed):
        http.client.HTTPConnection("example.org").request("GET", "/")
    with pytest.raises(network_guard.NetworkUsed), socket.socket() as client:
        client.connect(("192.0.2.1", 80))
    assert tried == ["example.org", "192.0.2.1"]


def test_this_machine_is_in_reach(monkeypatch):
    tried = network_guard.install(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        server.accept()[0].sendall(b"here")
        assert client.recv(4) == b"here"
    assert not tried


def test_a_protocol_is_checked_by_its_methods():
    assert loses_signal(Eps(), LinearFlow()) and not loses_signal(X0(), LinearFlow())
    with pytest.raises(jaxtyping.TypeCheckError, match="target"):
        loses_signal(LinearFlow(), LinearFlow())  # a path is no target: it has no row


def test_slow_variants_are_forms_of_tests_that_are_there():
    """Each names a test and one form of it; what the file does not say is that a form stays quick, so none lists every form."""
    root = Path(__file__).parents[1]
    for line in (root / "tests" / "slow_variants.txt").read_text().splitlines():
        file, _, name = line.partition("::")
        function, bracket, _ = name.partition("[")
        assert bracket and f"def {function}(" in (root / file).read_text(), line
