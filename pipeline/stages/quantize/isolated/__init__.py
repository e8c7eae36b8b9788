"""Scripts that run in an engine's own environment, by path: they import nothing of the project, which is not there."""
