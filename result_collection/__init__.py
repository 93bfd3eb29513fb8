"""Results: the best settings, the summary over tasks, and the zip for the GLUE server."""
