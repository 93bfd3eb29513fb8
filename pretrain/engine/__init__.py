"""DeepSpeed, the ranks, and everything that keeps a run alive."""
