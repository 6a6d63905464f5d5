"""A connection that stays: one connection, and the link that replaces it when it is lost."""
