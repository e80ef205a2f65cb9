"""Words: what a text says about music, and frozen encoders of texts."""
