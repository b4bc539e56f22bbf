"""Being a device or a module: connecting, sending, listening. Knows one identity and the way to its hub."""
