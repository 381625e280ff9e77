"""The strict session is strict: each of its promises has a test that would fail without it."""

import socket
import urllib.request

import jax
import jax.numpy as jnp
import jaxtyping
import network_guard
import pytest
from score_lab import types
from score_lab.linear import combine


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


def test_types_are_checked_inside_score_lab():
    with pytest.raises(jaxtyping.TypeCheckError):
        types.leaf.__wrapped__ if False else types.static(3)
