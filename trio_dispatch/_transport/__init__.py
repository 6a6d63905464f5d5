"""Transports: bytes and messages over streams."""
