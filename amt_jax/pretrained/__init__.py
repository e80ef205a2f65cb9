"""Frozen networks of others, read from their safetensors."""
