"""`outputs/`: keys, manifests, atomic publishing, locks, provenance."""
