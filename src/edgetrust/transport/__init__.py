"""Sockets, TLS, MQTT and HTTP as streams of bytes and packets. Decides nothing about trust.

A peer's certificates are handed on as they were sent; who the peer is and what it may do is decided elsewhere.
"""
