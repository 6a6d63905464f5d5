"""The wire format: frames, codecs, models, channels, errors and sessions. No I/O."""
