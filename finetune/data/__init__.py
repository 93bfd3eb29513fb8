"""Tasks and their data: readers, checks and encoding."""
