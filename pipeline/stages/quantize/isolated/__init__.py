"""Scripts run by path in an engine's own environment; the project is not installed there, so they do not import it."""
