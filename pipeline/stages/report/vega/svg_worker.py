"""A second drawing process: vl-convert makes one drawing at a time per process.

This file is run by path and imports only vl-convert. Each line of standard input is a chart's Vega-Lite, each line of
standard output its SVG as JSON; it exits when the input closes. Its argument is the version of Vega-Lite.
"""

import json
import sys


def main() -> None:
    """Draw until standard input closes."""
    import vl_convert

    for spec in sys.stdin:
        drawn = vl_convert.vegalite_to_svg(spec, vl_version=sys.argv[1], allowed_base_urls=[])
        print(json.dumps(drawn), flush=True)


if __name__ == "__main__":
    main()
