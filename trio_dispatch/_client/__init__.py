"""The typed API on a link: calls, jobs, runs and subscriptions."""
