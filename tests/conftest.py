"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadlines: a test runs beside others, on machines that have better things to do.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")
