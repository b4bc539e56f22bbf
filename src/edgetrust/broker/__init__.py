"""The server side of a device's session: admit, keep, route, deliver.

Pure: no asyncio, no sockets, no store. Whatever touches the world is a port (`ports.py`) that the actor hands in, so
hub and gateway share this code and differ in two ports only: where registrations come from and where messages go.
"""
