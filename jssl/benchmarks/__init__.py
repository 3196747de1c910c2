"""Measurements, each a function from settings to a table."""
