"""A checkpoint that comes with code of its own, for its config, its model and its tokenizer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import families

from pipeline.demo import CHECKPOINT

CODE = {
    "configuration_mine.py": """
from transformers import LlamaConfig

class MineConfig(LlamaConfig):
    model_type = "mine"
""",
    "modeling_mine.py": """
from transformers import LlamaForCausalLM, LlamaModel

from .configuration_mine import MineConfig

class MineModel(LlamaModel):
    config_class = MineConfig

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = MineModel(config)
        self.post_init()
""",
    "tokenization_mine.py": """
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

class MineTokenizer(PreTrainedTokenizerFast):
    vocab_files_names = {"words": "tokenizer_mine.json"}

    def __init__(self, words, **others):
        others.pop("tokenizer_file", None)
        super().__init__(tokenizer_object=Tokenizer.from_file(words), **others)
""",
}


@contextmanager
def modules_in(cache: Path) -> Iterator[None]:
    """Let transformers keep a checkpoint's code in a folder of the test's, and forget what was imported from others."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
            del sys.modules[name]
        # The folder of an earlier test would be found first.
        sys.path[:] = [folder for folder in sys.path if not Path(folder, "transformers_modules").is_dir()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
        forget()
        yield
        forget()


def write(folder: Path) -> Path:
    """Write a Llama of another name, whose tokenizer no one reads without its code; return its folder."""
    families.write("llama", folder)
    for name, text in CODE.items():
        (folder / name).write_text(text)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "architectures": ["MineForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_mine.MineConfig",
            "AutoModel": "modeling_mine.MineModel",
            "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").rename(folder / "tokenizer_mine.json")
    tokenizer = json.loads((CHECKPOINT / "tokenizer_config.json").read_text())
    tokenizer |= {
        "tokenizer_class": "MineTokenizer",
        "auto_map": {"AutoTokenizer": [None, "tokenization_mine.MineTokenizer"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder
