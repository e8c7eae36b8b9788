"""vLLM as a subprocess of a configurable Python: start, wait, ask, stop. Nothing else of the project imports vLLM."""
