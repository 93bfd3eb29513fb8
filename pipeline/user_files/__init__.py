"""Checks of files that users bring."""
