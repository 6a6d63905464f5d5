"""``trio-dispatch run``: a program under an embedded service of remote calls."""
