"""Measurements that others can run: ``make bench``, or ``python -m benchmarks --only train_step``."""
