"""The roofline model: predicted time and memory of a load on a GPU."""
