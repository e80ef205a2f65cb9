"""Honest numbers: likelihood, musical metrics and the report."""
