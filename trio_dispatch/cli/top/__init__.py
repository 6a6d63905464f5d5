"""The `top` command."""
