"""Readers: a module per kind of source, and a registry of all."""
