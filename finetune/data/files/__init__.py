"""Reads the values of tables in files."""
