"""What a token is: vocabularies, MIDI to ids and back, and which token may follow which."""
