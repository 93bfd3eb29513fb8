"""The Hugging Face Hub: downloads, and what a run will need of it."""
