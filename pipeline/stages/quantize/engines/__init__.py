"""One module for each quantization engine."""
