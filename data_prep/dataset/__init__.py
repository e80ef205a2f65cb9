"""From MIDI files to a dataset folder."""
