"""Vega-Lite specifications and their rendering to SVG."""
