"""The Hugging Face Hub: downloads, and checks of access before a run."""
