"""What is on the wire: frames, codecs, models, channels, errors and sessions. No I/O."""
