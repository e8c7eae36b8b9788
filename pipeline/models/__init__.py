"""The BF16 source model: its files, architecture, tensor layout, loading and forward pass."""
