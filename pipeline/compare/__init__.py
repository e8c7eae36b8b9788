"""Pure statistics on finished results: no file is opened, nothing is rendered, and neither torch nor vLLM is imported.

* `stats.intervals`: a figure with its interval, and its absence with a reason,
* `stats.repeats`: means over repeats, and the relative change of a mean,
* `benchmarks`: a benchmark against BF16's, load by load;
  `stats.bootstrap`: how sure a percentile is within its repeat,
* `memory_fit`: whether a variant fits into a GPU of another size,
* `stats.accuracy`: shares of correct answers, and their difference on the same items,
* `stats.noninferiority`: whether a variant is no worse than BF16 on a task, within a margin,
* `stats.kl_divergence`: how far next-token distributions are from the baseline's,
* `comparison`: all variants against BF16,
* `decide.differences`: what one row shows against BF16; `statements`: statements with the differences that they rest
  on,
* `decide.verdict`: the statements that the table supports,
* `decide.frontier`: who is best in quality for its cost,
* `decide.constraints`: what a deployment has to hold; `decide.recommendation`: what to deploy, and
  `stats.sample_size`: what more to measure,
* `roofline.model`: what a device allows at best, under a load by `roofline.batching`;
  `published.roofline_validation`: its error over a study,
* `published.tables`: a study's tables; `published.reproduction`: those beside these results,
* `history`: this run beside earlier ones,
* `calibration_ranges`: what was observed at single sites, over all of them,
* `calibration_sweep`: one variant under several calibrations; `engine_agreement`: one format by several engines.
"""

from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.decide.verdict import Verdict, judge

__all__ = ["Comparison", "Verdict", "compare", "judge"]
