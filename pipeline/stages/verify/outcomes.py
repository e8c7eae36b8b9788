"""Outcomes of a check other than passing."""


class Failed(Exception):
    """Failed check, with the observation."""


class Broken(Failed):
    """Failed check of a checkpoint that cannot be measured, whoever made it."""


class NotCompared(Exception):
    """Check that could not be run, with the reason: neither passed nor failed."""
