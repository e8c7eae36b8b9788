"""GPUs, the probe of this machine, and what vLLM serves on which of them."""
