"""Three reasons why the hub gives nothing have three ways out."""

import httpx
import pytest
from huggingface_hub import errors as hub

from pipeline.__main__ import _show_defect
from pipeline.errors import hub_unreachable


def answered(kind: type[hub.HfHubHTTPError], status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api/models/a/b"))
    return kind(f"{status} Client Error.", response=response)


def offline() -> Exception:
    error = hub.LocalEntryNotFoundError("An error happened while trying to locate the files on the Hub.")
    error.__cause__ = httpx.ConnectError("Network is unreachable")
    return error


@pytest.mark.parametrize(
    ("error", "said", "not_said"),
    [
        (answered(hub.GatedRepoError, 401), ["a/b is gated", "Accept its licence", "hf auth login"], "Offline"),
        (answered(hub.GatedRepoError, 403), ["a/b is gated", "https://huggingface.co/a/b"], "Offline"),
        (
            answered(hub.RepositoryNotFoundError, 401),
            ["the hub has no a/b", "Check the name", "hf auth login"],
            "Offline",
        ),
        (answered(hub.RepositoryNotFoundError, 404), ["the hub has no a/b", "model.path"], "Offline"),
        (answered(hub.RevisionNotFoundError, 404), ["no such revision or file"], "Offline"),
        (hub.HFValidationError("Repo id must be in the form"), ["the hub has no a/b"], "Offline"),
        (offline(), ["could not be fetched", "Offline", "hf download a/b", "model.path=<the copy>"], "licence"),
        (answered(hub.HfHubHTTPError, 500), ["could not be fetched"], "licence"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_reason_has_its_way_out(error: Exception, said: list[str], not_said: str) -> None:
    message = str(hub_unreachable("model=b", "a/b", "model.path", error))
    assert all(part in message for part in said), message
    assert not_said not in message


def test_a_reason_behind_another_error_is_found_and_a_data_set_has_its_own_page() -> None:
    error = RuntimeError("loading failed")
    error.__cause__ = answered(hub.GatedRepoError, 403)
    message = str(hub_unreachable("calibration.dataset", "a/b", "calibration.dataset.path", error))
    assert "is gated" in message and "https://huggingface.co/datasets/a/b" in message


def test_a_defect_is_shown_without_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="x") as caught:
        raise ValueError("x\x1b[31my\u202e\x9b0m")
    _show_defect(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("ValueError: xy0m\n")
