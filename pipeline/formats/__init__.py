"""Number formats: schemes, rounding, and unpacking of what engines store."""
