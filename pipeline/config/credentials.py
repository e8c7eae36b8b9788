"""Secrets among the settings of a command line: refused before Hydra stores the words, and never repeated."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from pipeline.errors import ConfigError

# The address of a server has neither; an address within another setting has no user in front of its host.
IN_AN_ADDRESS = re.compile(r"[@?#]")
WITH_A_USER = re.compile(r"://[^/\s,\]]*@")
NO_CREDENTIALS = "the address holds a user, a password or a query, which results and logs would store"
NO_VARIABLE = "not the name of an environment variable; the key itself belongs in the variable, not in a setting"
NO_KEY = (
    "no --api-key and no --hf-token here, which results and logs would store; servers of the pipeline listen on this "
    "machine alone, and `hf auth login` or HF_TOKEN is for the hub"
)
NO_TOKEN = "it holds what looks like a token of the hub, which results and logs would store"
NOT_SET = "the environment has no variable of the name that it gives"
SET_IT = "Set that variable to the server's key; the setting has its name alone, and the key is stored nowhere."
# Also in the short forms that vLLM reads.
KEY_ARGUMENT = re.compile(r"--(?:api[-_]k|hf[-_]t)")
# Variables of the environment, by their names.
SECRET = re.compile(r".*(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)S?", re.IGNORECASE)
ENVIRONMENT = "hydra.job.env_set."
NO_VARIABLES = "Hydra stores what it sets of the environment"
HUB_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}")
REMEDIES = {
    "serve.url": "Leave it out, and name the environment variable with the server's key: serve.api_key_env=MY_KEY.",
    "report.mlflow": "Leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
}


def check(given: Iterable[tuple[str, str]]) -> None:
    """Refuse secrets among the settings of a command line.

    Args:
        given: name and value of each word; of several with one name Hydra stores all.

    Raises:
        ConfigError: naming the setting, and not its value.
    """
    for name, value in given:
        bare = value.strip("'\"")
        if WITH_A_USER.search(value) or (name == "serve.url" and IN_AN_ADDRESS.search(bare)):
            raise ConfigError(f"{name}: {NO_CREDENTIALS}.", REMEDIES.get(name, "Leave it out."))
        if name == "serve.extra_args" and KEY_ARGUMENT.search(value):
            raise ConfigError(f"{name}: {NO_KEY}.", "Leave it out.")
        if name.startswith(ENVIRONMENT) and SECRET.fullmatch(name.removeprefix(ENVIRONMENT)):
            raise ConfigError(f"{name}: {NO_VARIABLES}.", "Set the variable in the shell that starts the command.")
        if HUB_TOKEN.search(value):
            raise ConfigError(f"{name}: {NO_TOKEN}.", "Leave it out: `hf auth login`, or set HF_TOKEN.")
        if name == "serve.api_key_env" and bare not in ("null", "") and not os.environ.get(bare):
            raise ConfigError(f"{name}: {NOT_SET}.", SET_IT)
