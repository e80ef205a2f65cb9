"""Experiments: one file each, found by name (`--config=demo`)."""
