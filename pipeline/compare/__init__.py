"""Pure statistics on finished results: no file is opened, nothing is rendered, and neither torch nor vLLM is imported.

* `records`: what was measured, as plain data,
* `estimates`: a figure with its interval, and its absence with a reason,
* `repeats`: means over repeats, and the relative change of a mean,
* `speed`: a benchmark against BF16's, load by load; `bootstrap`: how sure a percentile is within its repeat,
* `memory`: whether a variant fits into a GPU of another size,
* `accuracy`: shares of correct answers, and their difference on the same items,
* `noninferiority`: whether a variant is no worse than BF16 on a task, within a margin,
* `divergence`: how far next-token distributions are from the baseline's,
* `table`: all variants against BF16,
* `reading`: what one row shows against BF16; `sentences`: statements with the differences that they rest on,
* `verdict`: the statements that the table supports,
* `frontier`: who is best in quality for its cost,
* `constraints`: what a deployment has to hold; `recommendation`: what to deploy, and `planning`: what more to measure,
* `roofline`: what a device allows at best, under a load by `scheduling`; `roofline_check`: its error over a study,
* `published`: a study's tables; `reference`: those beside these results,
* `history`: this run beside earlier ones,
* `calibration`: what was observed at single sites, over all of them,
* `sweep`: one variant under several calibrations; `engines`: one format by several engines.
"""

from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.decide.verdict import Verdict, judge

__all__ = ["Comparison", "Verdict", "compare", "judge"]
