"""Faults done to the real command on the demo model, and `docs/reliability.md`, written from what came of them.

* `command`: the command with small settings, and what a run may leave behind,
* `kills`: signals at seeded moments of every step, and around each publication (`victim`),
* `disks`: storage that fills or becomes read-only in each stage (`mounted`),
* `company`: two runs in one folder, and a busy process beside one,
* `sandbox_attempts`: ways out of the sandbox, in every way of isolation,
* `page`: the results as a document.

Every case is a line of `results.jsonl` in the work folder, and is not repeated by a later call.
"""
