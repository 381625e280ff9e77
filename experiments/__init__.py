"""Launchers: one small file a command, ``python -m experiments.NAME --help``."""
