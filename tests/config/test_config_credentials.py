"""Secrets in settings are refused before anything is written, and not repeated."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.settings import command_of, compose

from pipeline.config import PROJECT_ROOT, validate
from pipeline.config.command_line import translated
from pipeline.errors import ConfigError

SECRET = "pa55w0rd"
ATTACHED = ("stage=bench", "quant=bf16")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEY", SECRET)


@pytest.mark.parametrize(
    ("word", "way_out"),
    [
        (f"serve.url=http://alice:{SECRET}@127.0.0.1:8000", "serve.api_key_env"),
        (f"serve.url=alice:{SECRET}@127.0.0.1:8000", "serve.api_key_env"),
        (f"serve.url=http://{SECRET}@127.0.0.1:8000/v1", "serve.api_key_env"),
        (f"serve.url=http://alice:pa/{SECRET}@host", "serve.api_key_env"),
        (f"serve.url='http://host:8000/v1?key={SECRET}'", "serve.api_key_env"),
        (f"report.mlflow=https://me:{SECRET}@mlflow.example/", "MLFLOW_TRACKING_PASSWORD"),
        (f"serve.extra_args=[--api-key,{SECRET}]", "Leave it out"),
        (f"serve.extra_args=[--api-key={SECRET}]", "Leave it out"),
        (f"serve.api_key_env=sk-{SECRET}", "Set that variable"),
        (f"serve.extra_args=[--hf-token,{SECRET}]", "Leave it out"),
        (f"serve.extra_args=[--hf_tok={SECRET}]", "Leave it out"),
        (f"serve.extra_args=[--api-k,{SECRET}]", "Leave it out"),
        (f"hydra.job.env_set.HF_TOKEN={SECRET}", "in the shell"),
        (f"+hydra.job.env_set.aws_secret_access_key={SECRET}", "in the shell"),
        (f"model.revision=hf_{SECRET:x<34}", "hf auth login"),
        ("serve.api_key_env=NO_SUCH_VARIABLE", "Set that variable"),
        (f"bench.dataset.hub_file=s3://me:{SECRET}@bucket/x.json", "Leave it out"),
    ],
)
def test_a_secret_is_refused_by_the_words_alone(word: str, way_out: str) -> None:
    with pytest.raises(ConfigError) as error:
        translated([*ATTACHED, word])
    assert error.value.problem.startswith(word.partition("=")[0].lstrip("+") + ":")
    assert SECRET not in str(error.value) and way_out in str(error.value)


def test_a_secret_that_a_later_word_replaces_is_refused_all_the_same() -> None:
    """Hydra stores every word."""
    with pytest.raises(ConfigError, match="serve.url: the address holds"):
        translated([*ATTACHED, f"serve.url=http://alice:{SECRET}@127.0.0.1:1", "serve.url=http://127.0.0.1:1"])


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("serve", "url", f"http://alice:{SECRET}@127.0.0.1:8000"),
        ("report", "mlflow", f"http://me:{SECRET}@mlflow.example"),
        ("serve", "extra_args", ["--api-key", SECRET]),
        ("serve", "extra_args", [f"--hf-token={SECRET}"]),
        ("serve", "api_key_env", f"sk-{SECRET}"),
    ],
)
def test_a_secret_of_a_file_is_refused_too(group: str, name: str, value: object) -> None:
    composed = compose(*ATTACHED)
    composed[group][name] = value
    with pytest.raises(ConfigError) as error:
        validate(composed)
    assert str(error.value).startswith(f"{group}.{name}: ") and SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("pasted", "address"),
    [
        ("http://gateway.example/team/qwen/v1/", "http://gateway.example/team/qwen"),
        ("https://gateway.example//team//v1", "https://gateway.example/team"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_may_have_a_path(pasted: str, address: str) -> None:
    (found,) = command_of(*ATTACHED, f"serve.url={pasted}", "serve.api_key_env=GATEWAY_KEY", "serve.model=theirs")
    assert (found.serve.url, found.serve.api_key_env, found.serve.model) == (address, "GATEWAY_KEY", "theirs")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stage=bench", "variants=[bf16,fp8_dynamic]", "serve.url=http://h:1"], "has one checkpoint"),
        (["-m", "stage=bench", "quant=bf16,fp8_dynamic", "serve.url=http://h:1"], "has one checkpoint"),
        (["stage=bench", "experiment=study", "serve.url=http://h:1"], "has one checkpoint"),
        (["stage=bench", "quant=bf16", "serve.api_key_env=GATEWAY_KEY"], "set serve.url"),
        (["stage=bench", "quant=bf16", "serve.model=theirs"], "set serve.url"),
    ],
)
def test_an_address_has_one_variant(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        command_of(*words)


@pytest.mark.parametrize("more", [(), ("--multirun", "serve.max_num_seqs=8,16")])
def test_a_secret_of_a_file_is_not_left_in_what_hydra_stores(more: tuple[str, ...], tmp_path: Path) -> None:
    group = tmp_path / "conf" / "serve"
    group.mkdir(parents=True)
    lines = (PROJECT_ROOT / "conf" / "serve" / "vllm.yaml").read_text()
    (group / "mine.yaml").write_text(f"{lines}\nurl: http://alice:{SECRET}@127.0.0.1:8000\n")
    outputs = tmp_path / "outputs"
    words = ["--config-dir", str(group.parent), "serve=mine", *ATTACHED, *more, f"outputs={outputs}"]
    answer = subprocess.run([sys.executable, "-m", "pipeline", *words], capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == ConfigError.exit_code and "serve.url" in answer.stderr
    assert SECRET not in answer.stdout + answer.stderr
    assert not [path for path in outputs.rglob("*") if path.is_file() and SECRET in path.read_text()]
