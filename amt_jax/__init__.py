"""Music generation in JAX: MIDI in, a trained model, playable music out."""

__version__ = "0.1.0"
