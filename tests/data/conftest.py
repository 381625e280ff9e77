"""Digits built once for all tests of this folder, below a temporary directory."""

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data_dir of this session's own, in which ``Digits`` builds on first use."""
    return str(tmp_path_factory.mktemp("tfds"))
