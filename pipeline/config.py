"""The typed schema of everything under `conf/`: what may be set, of which type, and what fits together.

Hydra composes the YAML files and overrides; `Settings` checks the result as a whole and reports every error at once,
before any heavy import. The classes are pure: no file is opened and nothing is probed here (see `preflight`).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.catalogue import GPUS, gpu_of
from pipeline.errors import ConfigError
from pipeline.kernels import TITLES, choices
from pipeline.schemes import AWQ, GPTQ, SCHEMES, SIGNROUND, Scheme

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class Stage(StrEnum):
    """The stages in the order in which data flows; capabilities stands beside them and makes no artifact.

    `all` ends with the report: what others shall download is published when somebody asks for it.
    """

    CALIBRATE = "calibrate"
    QUANTIZE = "quantize"
    VERIFY = "verify"
    BENCH = "bench"
    EVAL = "eval"
    REPORT = "report"
    GATE = "gate"
    PUBLISH = "publish"
    CAPABILITIES = "capabilities"


# What stands beside the flow of data and makes no artifact.
ASIDE = (Stage.GATE, Stage.PUBLISH, Stage.CAPABILITIES)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ModelSettings(_Section):
    """The BF16 checkpoint that every variant is made from."""

    name: str = Field(description="folder name under outputs/")
    path: Path | None = Field(None, description="local folder with config.json; wins over hub_id")
    hub_id: str | None = Field(None, description="Hugging Face hub id")
    revision: str | None = Field(None, description="pinned hub commit")
    weights: Literal["trained", "random"] = Field(
        "trained", description="random: true shape from the config alone, for speed without the hub"
    )
    seed: int = Field(0, description="seed of random weights")
    trust_remote_code: bool = Field(False, description="run code that the checkpoint brings")

    @model_validator(mode="after")
    def _has_source(self) -> ModelSettings:
        if self.path is None and self.hub_id is None:
            raise ValueError("set model.path (a local folder) or model.hub_id")
        return self


class DatasetSettings(_Section):
    """A file of conversations: local, or one file of a hub data set."""

    path: Path | None = Field(None, description="local JSON, JSONL or text file; wins over hub_id")
    hub_id: str | None = Field(None, description="Hugging Face hub data set id")
    hub_file: str | None = Field(None, description="file inside the hub data set")
    revision: str | None = Field(None, description="pinned hub commit")

    @model_validator(mode="after")
    def _has_source(self) -> DatasetSettings:
        if self.path is None and (self.hub_id is None or not self._names_data()):
            raise ValueError(self._missing())
        return self

    def _names_data(self) -> bool:
        return self.hub_file is not None

    def _missing(self) -> str:
        return "set path (a local file), or hub_id and hub_file"


class CalibrationSet(DatasetSettings):
    """Conversations to calibrate with: a local file, a file on the hub, or a split that `datasets` loads."""

    subset: str | None = Field(None, description="configuration of the hub data set")
    split: str | None = Field(None, description="split of the hub data set, instead of hub_file")
    columns: dict[str, str] = Field({}, description="what the data set's columns are: meaning -> its name there")
    weight: PositiveFloat = Field(1, description="share of the samples, against the other sets of a mix")

    @field_validator("columns")
    @classmethod
    def _known_meanings(cls, value: dict[str, str]) -> dict[str, str]:
        known = ("conversations", "messages", "prompt", "response", "text")
        if unknown := [meaning for meaning in value if meaning not in known]:
            raise ValueError(f"{', '.join(unknown)}: a column means one of {', '.join(known)}")
        return value

    def _names_data(self) -> bool:
        return self.hub_file is not None or self.split is not None

    def _missing(self) -> str:
        return "set path (a local file), or hub_id and split (or hub_file)"


class CalibrationSettings(_Section):
    """What the BF16 model is shown, and how ranges are computed from what it does."""

    name: str
    dataset: CalibrationSet
    mix: dict[str, CalibrationSet] = Field({}, description="further sets, each with its weight")
    num_samples: PositiveInt = Field(200, description="conversations forwarded")
    algorithm_samples: PositiveInt | None = Field(
        None, description="of these, shown to GPTQ, AWQ and SmoothQuant; null: all"
    )
    min_seq_length: PositiveInt = Field(1, description="tokens below which a conversation is left out")
    max_seq_length: PositiveInt = Field(2048, description="tokens kept of a conversation")
    drop_long: bool = Field(False, description="leave out what is longer than max_seq_length instead of cutting it")
    apply_chat_template: bool = Field(True, description="as in deployment; false: the texts as they are")
    enable_thinking: bool | None = Field(None, description="Qwen3's switch; null: what the template does by itself")
    seed: int = Field(0, description="seed of the sampling")
    observer: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] = Field(
        "minmax", description="technique that makes ranges of what was observed"
    )
    percentile: float = Field(99.99, gt=0, le=100, description="of the magnitudes, kept by observer=percentile")
    averaging_constant: float = Field(0.01, gt=0, le=1, description="weight of a new sample in the moving average")
    histogram_tokens: PositiveInt | None = Field(
        512, description="tokens of a conversation that enter histograms, evenly spaced; null: all"
    )
    tolerance: float = Field(0.01, gt=0, lt=1, description="relative change of a range that still counts as stable")
    layerwise: Literal["auto", "always", "never"] = Field(
        "auto", description="one decoder layer in memory at a time; auto: where the model does not fit"
    )
    overlap_ngram: PositiveInt = Field(13, description="words that calibration and evaluation may not share in a row")
    max_overlap: float = Field(0.01, ge=0, le=1, description="share of an evaluation's items that may overlap")
    allow_contamination: bool = Field(False, description="go on with a set that overlaps more")
    artifact: Path | None = Field(None, description="folder of a finished calibration to use instead")

    @property
    def sets(self) -> dict[str, CalibrationSet]:
        """Every set of the mix by the name of its setting."""
        return {"dataset": self.dataset, **{f"mix.{name}": each for name, each in self.mix.items()}}


class QuantSettings(_Section):
    """A weight and activation format, and the algorithm that makes it."""

    name: str
    title: str = Field(description="row label in the report")
    engine: str = Field(description="who makes the checkpoint; none: the checkpoint as it is")
    scheme: str | None = Field(None, description="number format, see pipeline/schemes.py")
    algorithm: str = Field("rtn", description="how weights are rounded")
    group_size: PositiveInt | None = Field(
        None, description="input channels that share a weight scale; null: the scheme's own"
    )
    smoothing_strength: float = Field(0.5, ge=0, le=1, description="SmoothQuant's alpha")
    dampening: float = Field(0.01, gt=0, description="GPTQ's dampening, fraction of the mean diagonal")
    double_quant: bool = Field(False, description="NF4's scales are quantized too, to 8 bits in blocks of 256")
    ignore: tuple[str, ...] = Field(("lm_head",), description="modules left in BF16")

    @model_validator(mode="before")
    @classmethod
    def _autorounds_only_algorithm(cls, given: Any) -> Any:
        """Lets `quant=awq quant.engine=autoround` compare engines: its one algorithm is nobody else's."""
        takes_data = isinstance(given, dict) and given.get("algorithm") in (AWQ, GPTQ)
        if takes_data and given.get("engine") == "autoround":
            return {**given, "algorithm": SIGNROUND}
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> QuantSettings:
        if (self.engine == "none") != (self.scheme is None):
            raise ValueError("engine=none goes with scheme=null, any other engine needs a scheme")
        if self.scheme is None:
            return self
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme={self.scheme}: there is none of that name, but {', '.join(SCHEMES)}")
        engines = SCHEMES[self.scheme].engines
        if self.engine not in engines:
            raise ValueError(f"engine={self.engine} does not make {self.scheme}; {', '.join(engines)} can")
        if self.algorithm not in engines[self.engine]:
            known = ", ".join(engines[self.engine])
            raise ValueError(f"algorithm={self.algorithm}: {self.engine} makes {self.scheme} by {known}")
        if self.group_size is not None and not SCHEMES[self.scheme].group_is_free:
            raise ValueError(f"group_size={self.group_size}: scheme {self.scheme} has no groups to choose")
        if self.double_quant and self.scheme != "NF4":
            raise ValueError(f"double_quant=true goes with scheme NF4, not {self.scheme}")
        return self

    @property
    def format(self) -> Scheme | None:
        """The number format; None for the checkpoint as it is."""
        return None if self.scheme is None else SCHEMES[self.scheme]

    @property
    def bits(self) -> int | None:
        """Whole bits of a stored weight, as engines are told; None for the checkpoint as it is."""
        return None if self.format is None else int(self.format.bits)

    @property
    def effective_group_size(self) -> int | None:
        """Input channels that share a weight scale, or None where the scheme has no groups."""
        return None if self.format is None else self.group_size or self.format.group

    @property
    def static_activations(self) -> str | None:
        """The format of activations whose scale comes from calibration; None where none does."""
        return None if self.format is None else self.format.static

    @property
    def takes_tokens(self) -> bool:
        """Whether the engine is shown calibration tokens."""
        return self.algorithm != "rtn" or (self.format is not None and self.format.shown_tokens)

    @property
    def needs_data(self) -> bool:
        """Whether the weights or activation scales depend on calibration data."""
        return self.static_activations is not None or self.takes_tokens


class KVCacheSettings(_Section):
    """How keys and values are stored while serving."""

    name: str
    dtype: Literal["auto", "fp8_e4m3", "fp8_e5m2"]
    scales: Literal["calibrated", "one"] = Field("one", description="a scale per layer from calibration, or 1.0")

    @model_validator(mode="after")
    def _fits_together(self) -> KVCacheSettings:
        if self.scales == "calibrated" and self.dtype != "fp8_e4m3":
            why = " (vLLM refuses fp8_e5m2 on a checkpoint that has scales)" if self.dtype == "fp8_e5m2" else ""
            raise ValueError(f"scales=calibrated goes with dtype fp8_e4m3, not {self.dtype}{why}")
        return self

    @property
    def needs_data(self) -> bool:
        """Whether the checkpoint carries scales of keys and values."""
        return self.scales == "calibrated"


class ServeSettings(_Section):
    """How vLLM is started; one fresh server for each variant."""

    name: str
    url: str | None = Field(
        None, pattern=r"^https?://[^/\s]+$", description="a server that runs already, http://host:port; null: start one"
    )
    python: str | None = Field(None, description="interpreter that has vLLM; null: this one")
    host: Literal["127.0.0.1", "localhost"] = Field("127.0.0.1", description="servers stay local")
    port: int | None = Field(None, ge=1, le=65535, description="null: a free one")
    start_timeout_s: PositiveFloat = Field(600, description="seconds until a start has failed")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto")
    kernel: str = Field("auto", description="of the quantized layers, vLLM's --linear-backend; auto: its own choice")
    max_model_len: PositiveInt | None = Field(None, description="context in tokens; null: the model's")
    max_num_seqs: PositiveInt | None = Field(None, description="sequences batched; null: vLLM's default")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    cpu_kv_cache_gib: PositiveFloat = Field(1, description="KV-cache memory on a CPU, GiB")
    cpu_cores: str = Field("auto", description="cores of the engine on a CPU, like 0-3; auto: all")
    enforce_eager: bool | None = Field(
        None,
        description="no torch.compile, no CUDA graphs; null: on a CPU, where compiling takes minutes",
    )
    prefix_caching: Literal[False] = Field(False, description="a warm prefix is not the load measured")
    extra_args: tuple[str, ...] = Field((), description="passed to vLLM as they are")

    @field_validator("kernel")
    @classmethod
    def _known_kernel(cls, value: str) -> str:
        if value != "auto" and value not in TITLES:
            raise ValueError(f"{value}: there is no kernel of that name, but auto, {', '.join(TITLES)}")
        return value


class LadderSettings(_Section):
    """Loads from one request at a time up to saturation, instead of a single one."""

    concurrency: tuple[PositiveInt, ...] = Field(min_length=1, description="requests in flight, level by level")
    rates: tuple[float, ...] = Field((), description="request rates, as shares of the saturated request throughput")
    prompts_per_slot: PositiveInt = Field(4, description="requests of a level for each one in flight")
    min_prompts: PositiveInt = Field(16, description="requests of the smallest level; num_prompts: of the largest")
    budget_s: PositiveFloat | None = Field(None, description="seconds for all levels; what does not fit is left out")

    @model_validator(mode="after")
    def _rises(self) -> LadderSettings:
        for name in ("concurrency", "rates"):
            levels = getattr(self, name)
            if list(levels) != sorted(set(levels)):
                raise ValueError(f"{name}={list(levels)}: levels must rise")
        if any(not 0 < share <= 1 for share in self.rates):
            raise ValueError(f"rates={list(self.rates)}: shares of the saturated rate lie above 0 and up to 1")
        return self


SLO_METRICS = ("ttft_ms", "tpot_ms", "e2el_ms")


class SloSettings(_Section):
    """What a request must meet to count as good; null: that metric may be anything."""

    ttft_ms: PositiveFloat | None = Field(None, description="time to first token, milliseconds")
    tpot_ms: PositiveFloat | None = Field(None, description="time per output token after the first, milliseconds")
    e2el_ms: PositiveFloat | None = Field(None, description="end-to-end latency, milliseconds")
    percentile: float = Field(99, gt=0, lt=100, description="of requests that must meet it at the highest good rate")
    probes: NonNegativeInt = Field(6, description="rates tried to find the highest good one; 0: not searched")
    prompts: PositiveInt = Field(200, description="requests of a probe")

    @model_validator(mode="before")
    @classmethod
    def _known_metrics(cls, value: Any) -> Any:
        known = (*SLO_METRICS, "percentile", "probes", "prompts")
        if isinstance(value, dict) and (unknown := [name for name in value if name not in known]):
            raise ValueError(f"{', '.join(unknown)}: an SLO is in milliseconds, of {', '.join(SLO_METRICS)}")
        return value

    @property
    def limits(self) -> dict[str, float]:
        """The metrics that are limited, by name, in milliseconds."""
        return {name: limit for name in SLO_METRICS if (limit := getattr(self, name)) is not None}


class BenchSettings(_Section):
    """The loads that vLLM's own load generator puts on the server."""

    name: str
    prompts: Literal["sharegpt", "random"] = Field("sharegpt", description="conversations, or random tokens")
    dataset: DatasetSettings
    input_len: PositiveInt | None = Field(None, description="tokens of a random prompt")
    output_len: PositiveInt | None = Field(
        None,
        description="tokens of every reply, no fewer and no more; null: at most those of the conversation's answer",
    )
    num_prompts: PositiveInt = Field(description="requests in a repeat")
    request_rate: float | Literal["inf"] = Field("inf", description="requests per second")
    max_concurrency: PositiveInt | None = Field(None, description="requests in flight; null: no limit")
    ladder: LadderSettings | None = Field(None, description="levels instead of the one load above")
    repeats: PositiveInt = Field(3, description="repeats, each with its own seed")
    warmup_prompts: NonNegativeInt = Field(description="requests in a round of warm-up, before anything is counted")
    warmup_rounds: PositiveInt = Field(5, description="rounds at most, each with other prompts, until it is steady")
    warmup_tolerance: float = Field(0.1, gt=0, lt=1, description="change of throughput that counts as steady")
    seed: int = 0
    temperature: NonNegativeFloat | None = Field(0, description="null: what the checkpoint's generation config says")
    endpoint: Literal["openai", "openai-chat"] = "openai-chat"
    slo: SloSettings = SloSettings()
    timeout_s: PositiveFloat = Field(3600, description="seconds after which a load counts as hung")

    @field_validator("request_rate", mode="before")
    @classmethod
    def _above_zero(cls, value: Any) -> Any:
        if value in ("inf", float("inf")):
            return "inf"
        try:
            if float(value) > 0:
                return float(value)
        except (TypeError, ValueError):
            pass
        raise ValueError(f"{value!r} is no request rate: requests per second above zero, or inf")

    @model_validator(mode="after")
    def _fits_together(self) -> BenchSettings:
        if self.prompts == "random" and (self.input_len is None or self.output_len is None):
            raise ValueError("prompts=random needs input_len and output_len")
        if self.prompts == "sharegpt" and self.input_len is not None:
            raise ValueError(
                f"input_len={self.input_len} goes with prompts=random; conversations have their own length"
            )
        return self


class TaskSettings(_Section):
    """One lm-eval task and the figure of it that the report shows."""

    task: str = Field(description="lm-eval's name")
    metric: str
    filter: str = "none"
    num_fewshot: NonNegativeInt | None = Field(None, description="null: the task's own")


class DivergenceSettings(_Section):
    """The held-out text on which a variant's next-token distributions are compared with BF16's."""

    dataset: DatasetSettings
    num_sequences: PositiveInt = Field(description="conversations, each one sequence")
    max_seq_length: int = Field(ge=2, description="tokens kept of a conversation")
    top_k: PositiveInt = Field(20, description="log-probabilities a token; vLLM allows 20, more with --max-logprobs")
    layer_tokens: PositiveInt | None = Field(
        256, description="tokens of it on which each quantized layer's output error is taken; null: not measured"
    )
    seed: int = Field(0, description="seed of the sampling")


class EvalSettings(_Section):
    """What a served checkpoint is asked, and how answers are scored."""

    name: str
    tasks: dict[str, TaskSettings] = Field(min_length=1, description="column label -> task")
    include_path: Path | None = Field(None, description="folder of further lm-eval task files")
    data_dir: Path | None = Field(None, description="folder with the benchmarks' files; null: from the hub")
    limit: PositiveInt | None = Field(None, description="items of each task, drawn by subject; null: all")
    chat_template: bool = Field(False, description="ask under the model's chat template, examples as turns of it")
    enable_thinking: bool | None = Field(None, description="Qwen3's switch; null: what the template does by itself")
    num_concurrent: PositiveInt = Field(16, description="requests in flight")
    prefix_caching: bool = Field(
        True, description="the examples that questions begin with are computed once; costs a server of its own"
    )
    max_gen_toks: PositiveInt = Field(256, description="new tokens where the task sets none")
    seed: int = 0
    code_timeout_s: PositiveFloat = Field(5, description="seconds of CPU time a generated program may take")
    unsafe_code: bool = Field(False, description="run generated programs even where this machine cannot isolate them")
    divergence: DivergenceSettings | None = Field(None, description="KL divergence from BF16; null: not measured")

    @model_validator(mode="after")
    def _fits_together(self) -> EvalSettings:
        if self.enable_thinking is not None and not self.chat_template:
            raise ValueError(f"enable_thinking={self.enable_thinking} is the template's switch: set chat_template=true")
        return self


def _in_catalogue(name: str) -> str:
    """The catalogue's name of a GPU, whether it was called `H100 SXM` or `h100_sxm`."""
    gpu = gpu_of(name)
    if gpu is None:
        raise ValueError(f"{name}: the catalogue has no GPU of that name, but {', '.join(gpu.key for gpu in GPUS)}")
    return gpu.name


GpuName = Annotated[str, AfterValidator(_in_catalogue)]


class HardwareSettings(_Section):
    """The machine, where it should not be probed."""

    name: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu: GpuName | None = Field(None, description="a GPU of the catalogue that need not be here: what could it serve?")


class ConstraintSettings(_Section):
    """What a deployment has to hold; null: no such constraint."""

    memory_gib: PositiveFloat | None = Field(None, description="of the card that weights and KV cache have to fit on")
    ttft_p99_ms: PositiveFloat | None = Field(None, description="largest p99 of the time to the first token")
    tpot_p99_ms: PositiveFloat | None = Field(None, description="largest p99 of the time per output token")
    max_loss_points: dict[str, NonNegativeFloat] = Field(
        {}, description="task label -> largest loss of accuracy against BF16, in points"
    )
    hardware: GpuName | None = Field(None, description="GPU of the catalogue that has to serve it natively")

    @field_validator("max_loss_points", mode="before")
    @classmethod
    def _none_is_no_limit(cls, value: Any) -> Any:
        return {} if value is None else value


class ReportSettings(_Section):
    """What is rendered, beside the terminal."""

    name: str
    title: str = "Which quantization should I deploy?"
    recorded: bool = Field(
        False, description="show what outputs holds of the model, under whatever settings and wherever it was measured"
    )
    constraints: ConstraintSettings = ConstraintSettings()
    margin_points: PositiveFloat = Field(1, description="loss of accuracy, in points, that still counts as no worse")
    margin_percent: PositiveFloat = Field(1, description="loss of speed, in percent, that still counts as no worse")
    what_if: tuple[GpuName, ...] = Field((), description="GPUs of pipeline/catalogue.py to predict for")
    runs: tuple[Path, ...] = Field((), description="earlier runs, the oldest first: report.json or outputs folders")
    baseline: Path | None = Field(
        None, description="report.json or outputs folder that stage=gate holds this run against"
    )
    tolerance_percent: NonNegativeFloat = Field(
        2, description="change of speed or size between sessions that counts as none"
    )
    mlflow: str | None = Field(None, description="tracking URI to log to; null: MLflow is not imported")
    formats: tuple[Literal["html", "md", "csv", "json", "png"], ...] = Field(
        ("html", "md", "csv", "json"), description="png: each chart as a file for slides"
    )


class PublishSettings(_Section):
    """Where checkpoints go on the Hugging Face hub, and what their cards cannot know."""

    name: str = "hub"
    repo_id: str | None = Field(None, description="owner/name; {model} and {variant} stand for theirs")
    private: bool = Field(True, description="a repository that is made new is private")
    dry_run: bool = Field(True, description="write the folder and say what would be uploaded, and upload nothing")
    base_model: str | None = Field(None, description="hub id of the BF16 checkpoint; null: model.hub_id")
    license: str | None = Field(None, description="the hub's name of it; null: what the BF16 checkpoint's card says")


class Variant(BaseModel):
    """One row of the report: a weight format, a KV-cache format, and the kernel that serves it."""

    model_config = ConfigDict(frozen=True)
    quant: str
    kv_cache: str = "auto"
    kernel: str = "auto"

    @classmethod
    def parse(cls, text: str, default: str = "auto") -> Variant:
        """Reads `quant[+kv_cache][@kernel]`, the way the folders under outputs/ are named; `default`: the kernel."""
        weights, _, kernel = text.partition("@")
        quant, _, kv_cache = weights.partition("+")
        return cls(quant=quant, kv_cache=kv_cache or "auto", kernel=kernel or default)

    @property
    def checkpoint(self) -> Variant:
        """The variant whose checkpoint it is: one checkpoint under several kernels is made once."""
        return self.model_copy(update={"kernel": "auto"})

    def __str__(self) -> str:
        """The folder name."""
        cache = "" if self.kv_cache == "auto" else f"+{self.kv_cache}"
        return f"{self.quant}{cache}{'' if self.kernel == 'auto' else f'@{self.kernel}'}"


class Settings(_Section):
    """The whole configuration of one variant."""

    stage: tuple[Stage, ...] = Field(min_length=1)
    variants: tuple[str, ...] | None = Field(
        None,
        description="several variants in one run, `quant[+kv_cache][@kernel]`; null: the one set",
    )
    protocols: tuple[str, ...] | None = Field(
        None, description="several files of bench/ in one run, on one server each variant; null: the one set"
    )
    dry_run: bool = Field(False, description="say what would run and why, and stop")
    outputs: Path = Field(Path("outputs"), description="where artifacts are kept")
    model: ModelSettings
    calibration: CalibrationSettings
    quant: QuantSettings
    kv_cache: KVCacheSettings
    serve: ServeSettings
    bench: BenchSettings
    eval: EvalSettings
    hardware: HardwareSettings
    report: ReportSettings
    publish: PublishSettings = PublishSettings()

    @field_validator("stage", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if value == "all":
            return tuple(stage for stage in Stage if stage not in ASIDE)
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _gates_against_something(self) -> Settings:
        if Stage.GATE in self.stage and self.report.baseline is None:
            raise ValueError("stage=gate needs report.baseline=<report.json of the run to hold this one against>")
        return self

    @model_validator(mode="after")
    def _limits_known_tasks(self) -> Settings:
        if unknown := [task for task in self.report.constraints.max_loss_points if task not in self.eval.tasks]:
            raise ValueError(
                f"report.constraints.max_loss_points={', '.join(unknown)}: eval={self.eval.name} has "
                f"{', '.join(self.eval.tasks)}"
            )
        return self

    @model_validator(mode="after")
    def _kernel_fits_the_scheme(self) -> Settings:
        known = choices(self.quant.scheme)
        if self.serve.kernel not in ("auto", *known):
            ways = f"{', '.join(known)} can be asked for" if known else "none can be asked for"
            raise ValueError(
                f"serve.kernel={self.serve.kernel}: vLLM has no such kernel for {self.quant.scheme or 'BF16'} "
                f"(quant={self.quant.name}); {ways}, or auto"
            )
        return self

    @model_validator(mode="after")
    def _attaches_to_measure_alone(self) -> Settings:
        if self.serve.url is not None and not set(self.stage) <= {Stage.BENCH, Stage.REPORT}:
            raise ValueError(
                f"serve.url={self.serve.url} goes with stage=bench or [bench,report]; the rest needs files"
            )
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether the checkpoint depends on calibration data at all."""
        return self.quant.needs_data or self.kv_cache.needs_data

    @property
    def takes_ranges(self) -> bool:
        """Whether scales in the checkpoint come from observed ranges."""
        return self.quant.static_activations is not None or self.kv_cache.needs_data

    @property
    def is_baseline(self) -> bool:
        """Whether this is the BF16 checkpoint, served as it is."""
        return self.quant.engine == "none" and self.kv_cache.dtype == "auto"

    @property
    def variant(self) -> Variant:
        """The variant that these settings describe."""
        return Variant(quant=self.quant.name, kv_cache=self.kv_cache.name, kernel=self.serve.kernel)


def validate(config: dict[str, Any]) -> Settings:
    """Turns Hydra's composed configuration into `Settings`.

    Raises:
        ConfigError: naming each setting that is unknown, of the wrong type or impossible.
    """
    try:
        return Settings.model_validate(config)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_sentence(item) for item in error.errors()),
            "\n`python -m pipeline --cfg job` prints every setting with its value.",
        ) from None


def _sentence(item: Any) -> str:
    """One error of pydantic's as a line that names setting, value and what is allowed."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{where}: there is no such setting."
    message = item["msg"].removeprefix("Value error, ")
    if not where:  # of settings in different sections, which the message names
        return f"{message}."
    if item["type"] == "value_error":
        return f"{where}: {message}."
    return f"{where}={item['input']!r}: {message[:1].lower()}{message[1:]}."
