"""Fuzzing of every parser that a peer can reach. `python -m fuzz --help`."""
