"""Digits built once for all tests of this folder, below a temporary directory; and what is to be told without waiting."""

import time

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data_dir of this session's own, in which ``Digits`` builds on first use."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def at_once(monkeypatch):
    """The test fails if it waits, or computes for two seconds; what else the machine is busy with counts for nothing."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    began = time.thread_time()
    yield
    assert time.thread_time() - began < 2
