"""Repositories on the Hugging Face hub, and the upload."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from pipeline.config import Settings
from pipeline.config.file_names import file_name
from pipeline.errors import ConfigError, StageError
from pipeline.models.safetensors import WEIGHTS
from pipeline.progress import Progress

# Shards of an earlier upload, which loaders would read beside those of this one.
STALE = (f"*{WEIGHTS}", f"*{WEIGHTS}.index.json")


def check(variants: Sequence[Settings]) -> None:
    """See `pipeline.stages.publish.check`."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    # Several benchmarks share a checkpoint.
    quantized = list({str(each.variant.checkpoint): each for each in variants if not each.is_baseline}.values())
    if not quantized:
        raise ConfigError("stage=publish: the BF16 checkpoint is published already.", "Name a quantized variant.")
    if theirs := [settings.quant.name for settings in quantized if settings.quant.is_existing]:
        raise ConfigError(
            f"stage=publish: {', '.join(dict.fromkeys(theirs))} was quantized by others, and is theirs to publish.",
            "Leave it out of variants.",
        )
    publish = quantized[0].publish
    if publish.repo_id is None:
        if not publish.dry_run:
            raise ConfigError("publish.repo_id is not set.", "Set it, e.g. publish.repo_id=me/{model}-{variant}.")
        return
    names = [_repository(publish.repo_id, settings) for settings in quantized]
    for name in names:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise ConfigError(f"publish.repo_id={publish.repo_id}: {error}") from None
        if "/" not in name:
            raise ConfigError(f"publish.repo_id={publish.repo_id}: the owner is missing.", "Write owner/name.")
    if len(set(names)) < len(names):
        raise ConfigError(
            f"publish.repo_id={publish.repo_id}: {len(names)} variants would go to one repository.",
            "Add {variant} to it.",
        )
    if not publish.dry_run and get_token() is None:
        raise ConfigError(
            "publish.dry_run=false: there is no token for the hub.", "Run `hf auth login`, or set HF_TOKEN."
        )


def _repository(pattern: str, settings: Settings) -> str:
    try:
        return pattern.format(model=settings.model.name, variant=_name(str(settings.variant)))
    except (KeyError, IndexError, ValueError):
        raise ConfigError(f"publish.repo_id={pattern}: the only placeholders are {{model}} and {{variant}}.") from None


def _name(variant: str) -> str:
    """Return a variant's name of the characters that the hub permits."""
    return re.sub(r"[-.]{2,}", "-", re.sub(r"[+@=]", "-", file_name(variant)))


def repository(settings: Settings) -> str:
    """Return the repository of a variant; a placeholder name if none is set."""
    return _repository(settings.publish.repo_id or "YOUR-NAME/{model}-{variant}", settings)


def send(folder: Path, settings: Settings, progress: Progress) -> str:
    """Name the files of `folder`, and upload them unless it is a dry run.

    Raises:
        StageError: if the hub refuses or cannot be reached, or a repository that was to be private is public.
    """
    name = repository(settings)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for each, bytes_ in sizes.items():
        progress.say(escape(f"    {each:<40} {bytes_:>16,} bytes"))
    size = f"{len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB"
    kind = "private" if settings.publish.private else "public"
    if settings.publish.dry_run:
        target = f"{kind} {name}" if settings.publish.repo_id else "publish.repo_id, which is not set"
        return f"{folder}; dry run: {size} would be uploaded to {target}; publish.dry_run=false uploads"
    with progress.step(f"upload {name}"):
        return f"{size} at {_upload(folder, list(sizes), name, settings.publish.private)}"


def _upload(folder: Path, files: Sequence[str], name: str, private: bool) -> str:
    """Upload the files, in place of weights of other names; return the address, and who can see it."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        # A repository that was there stays as it is.
        is_private = bool(api.model_info(name).private)
        if private and not is_private:
            raise StageError(
                f"publish.private=true: {name} is there already, and public; nothing was uploaded.",
                "Set publish.private=false to upload to it, or name another (publish.repo_id).",
            )
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[*files],
            delete_patterns=[*STALE] if any(file.endswith(WEIGHTS) for file in files) else None,
            commit_message="Checkpoint and card",
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StageError(
            f"publish: {name} could not be uploaded ({type(error).__name__}: {reason[:200]}).",
            f"The folder is complete: `hf upload {name} {folder}` sends it later.",
        ) from error
    return f"{url} ({'private' if is_private else 'public'})"
