"""Benchmarks: `python -m jssl.bench --help` lists them."""
