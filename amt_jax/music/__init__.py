"""MIDI and sound as a person knows them: loading, features, pictures, audio."""
