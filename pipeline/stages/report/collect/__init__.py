"""From manifests and result files to plain data; what cannot be read becomes `n/a` with its reason."""
