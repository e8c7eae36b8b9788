"""Records of stated figures, and any that hypothesis comes up with: what the tests of comparisons are fed."""

from hypothesis import strategies as st

from pipeline.compare.stats.kl_divergence import DivergenceCell, Estimate
from pipeline.hardware.rules import NO_SPEED
from pipeline.results.base import Missing
from pipeline.results.bench import Metric
from pipeline.results.metrics import HEADLINE
from pipeline.results.records import Record, Size, Speed, TaskScores

TASKS = ("MMLU", "GSM8K")
NOISE = (1.0, 1.01, 0.99)


def record(
    name, throughput=1000.0, wrong=0, emulated=(), size=100, noise=NOISE, n=400, speed=None, tasks=None, machine="box"
):
    metrics = {
        metric.name: Metric(unit=metric.unit, values=tuple(throughput * f for f in noise))
        if metric.better == "higher"
        else Metric(unit=metric.unit, values=tuple(1e6 / throughput * f for f in noise))
        for metric in HEADLINE
    }
    if speed is None:
        measured = Speed(machine=machine, metrics=metrics, asked=3, completed=3, failed=0)
        speed = Missing(reason=NO_SPEED) if emulated else measured
    items = tuple((f"item {i}", float(i >= wrong)) for i in range(n))
    scored = TaskScores(task="t", metric="acc", value=1 - wrong / n, n=n, asked=n, scores=items)
    return Record(
        name=name,
        label=name.upper(),
        family="baseline" if name == "bf16" else "other",
        is_baseline=name == "bf16",
        emulated=emulated,
        size=Size(bytes=size),
        speed=speed,
        tasks=dict.fromkeys(TASKS, scored) if tasks is None else tasks,
    )


def divergence(kl):
    """A measured divergence of `kl` nats per token."""
    figure = Estimate(value=kl, interval=None)
    return DivergenceCell(
        kl=figure,
        agreement=figure,
        perplexity_ratio=figure,
        by_position=(),
        worst_share=None,
        sequences=1,
        tokens=1,
        top_k=1,
    )


def with_divergences(comparison, **kls):
    """The comparison with these divergences of its variants."""
    rows = tuple(
        row.model_copy(update={"divergence": divergence(kls[row.name])}) if row.name in kls else row
        for row in comparison.rows
    )
    return comparison.model_copy(update={"rows": rows})


FACTORS = st.lists(st.floats(0.7, 1.3), min_size=1, max_size=4).map(tuple)


@st.composite
def anything(draw, variants=("a", "b", "c")):
    """Several variants with any speed, noise, losses, emulation and gaps, with or without a baseline."""
    # Of 400 items, none that differs shows that nothing was lost.
    n = draw(st.sampled_from([40, 400]))
    names = draw(st.lists(st.sampled_from(["bf16", *variants]), min_size=1, max_size=4, unique=True))
    return [
        record(
            name,
            throughput=draw(st.sampled_from([500.0, 950.0, 1000.0, 1050.0, 2000.0])),
            wrong=draw(st.integers(0, 15)),
            emulated=draw(st.sampled_from([(), (), ("fp8",)])),
            size=draw(st.integers(1, 200)),
            noise=draw(FACTORS),
            n=draw(st.sampled_from([n, n, n, n - 1])),
            speed=draw(st.sampled_from([None, None, None, Missing(reason="gone")])),
            tasks=draw(st.sampled_from([None, None, None, Missing(reason="gone")])),
        )
        for name in names
    ]
