"""Every test here may have a Hub of its own."""

from tests.hub.loopback import hub

__all__ = ["hub"]
