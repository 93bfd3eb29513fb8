"""Weights of a model for another vocabulary, or for a larger model."""
