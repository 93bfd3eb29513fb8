"""Runs that start from an existing model instead of random weights."""
