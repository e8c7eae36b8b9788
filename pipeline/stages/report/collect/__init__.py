"""From manifests and result files to plain data; unreadable data becomes `n/a` with its reason."""
