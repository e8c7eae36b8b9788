"""vLLM as a subprocess of a configurable Python: start, wait, query, stop. No other package imports vLLM."""
