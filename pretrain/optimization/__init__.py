"""Optimizers, learning-rate curves, batch sizes and the length of a run."""
