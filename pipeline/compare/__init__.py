"""Pure statistics on finished results: no file is opened, nothing is rendered, and neither torch nor vLLM is imported.

* `records`: what was measured, as plain data,
* `estimates`: a figure with its interval, and its absence with a reason,
* `repeats`: means over repeats, and the relative change of a mean,
* `accuracy`: shares of correct answers, and their difference on the same items,
* `divergence`: how far next-token distributions are from the baseline's,
* `table`: all variants against BF16,
* `verdict`: the sentences that the table supports,
* `calibration`: what was observed at single sites, over all of them,
* `sweep`: one variant under several calibrations.
"""

from pipeline.compare.table import Comparison, compare
from pipeline.compare.verdict import Verdict, judge

__all__ = ["Comparison", "Verdict", "compare", "judge"]
