"""Readers and checks of the user's files."""
