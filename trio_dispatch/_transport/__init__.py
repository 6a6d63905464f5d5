"""Bytes and messages over streams, and what carries them."""
