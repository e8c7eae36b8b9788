"""Outcomes of a check other than passing."""


class Failed(Exception):
    """Failed check, with the observation."""


class NotCompared(Exception):
    """Check that could not be run, with the reason: neither passed nor failed."""
