"""Certificates and keys: holding, issuing, linting and verifying them. Knows nothing about devices, hubs or
connections.

Plain functions and frozen values; time is always an argument. The only I/O here is that of key files (`softkeys`) and
of the system's trust store (`chain.load_system_bundle`).
"""
