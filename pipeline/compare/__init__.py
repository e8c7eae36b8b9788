"""Pure statistics on finished results: no file is opened, nothing is rendered, and neither torch nor vLLM is imported.

* `stats.intervals`: a figure with its interval, and its absence with a reason,
* `stats.repeats`: means over repeats, and the relative change of a mean,
* `benchmarks`: a benchmark against BF16's, load by load; `load_guards`: guards that need several variants;
  `stats.bootstrap`: the standard error of a percentile within its repeat,
* `stats.accuracy`: shares of correct answers, and their difference on the same items,
* `stats.noninferiority`: the non-inferiority test of a variant against BF16 on a task,
* `stats.kl_divergence`: the divergence of next-token distributions from the baseline's,
* `comparison`: all variants against BF16,
* `decide.differences`: differences of one row from BF16; `statements`: statements with the differences that they rest
  on,
* `decide.verdict`: the statements that the table supports,
* `decide.frontier`: the Pareto frontier of quality and cost,
* `decide.constraints`: the constraints of a deployment; `decide.recommendation`: the recommended variant, and
  `stats.sample_size`: the measurements that would decide open questions,
* `roofline.model`: bounds on a device, under a load by `roofline.batching`; `roofline.memory_fit`: the KV cache;
  `published.roofline_validation`: its error over a study,
* `published.tables`: a study's tables; `published.reproduction`: those compared with these results,
* `history`: this run compared with earlier ones, figure by figure (`run_figures`); `stats.sessions`: changes of speed
  between sessions,
* `calibration_ranges`: observed ranges over all sites of a model,
* `calibration_sweep`: one variant under several calibrations; `engine_agreement`: one format by several engines.
"""

from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.decide.verdict import Verdict, judge

__all__ = ["Comparison", "Verdict", "compare", "judge"]
