"""Fast layers for the CPU and attention for long rows; finetuning uses them too."""
