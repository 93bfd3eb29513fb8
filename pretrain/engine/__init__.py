"""DeepSpeed, the ranks, checkpoints and the handling of failures."""
