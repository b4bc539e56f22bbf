"""The edge gateway: edgeHub, with the key, certificate and identity services it rests on, in one process or in four.

A gateway is a hub whose source of truth is another hub: the session code is the broker's, registrations come from a
synchronised copy of the scope, and messages go to a durable queue that drains upstream.
"""
