"""Processes, clusters, memory and devices."""
