"""Draws beside the report, in a process of its own: vl-convert makes one drawing at a time, and machines have cores.

This file is run by path and imports no more than vl-convert. A line of standard input is a chart's Vega-Lite, a line of
standard output its SVG as JSON; when the input closes, it ends. Its argument is the version of Vega-Lite.
"""

import json
import sys


def main() -> None:
    """Answers until standard input closes."""
    import vl_convert

    for spec in sys.stdin:
        drawn = vl_convert.vegalite_to_svg(spec, vl_version=sys.argv[1], allowed_base_urls=[])
        print(json.dumps(drawn), flush=True)


if __name__ == "__main__":
    main()
