"""What each MIDI file is."""
