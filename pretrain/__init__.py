"""Pretraining: the model, its schedule and data order, the loop, checkpoints and the export."""
