"""The stages, in the order of the data: calibrate, quantize, verify, bench, eval, report; and publish beside them."""
