"""Results: the summary over tasks, the submissions to the benchmarks' servers, and the report."""
