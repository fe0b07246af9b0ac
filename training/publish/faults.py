"""What the Hub, its client and the network refuse, in one line that says what to do."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from eval.command import run_command
from training.common.addresses import _short
from training.common.errors import InputError

TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_AGAIN = "run the same command again"
_LOG_IN = f"log in with `hf auth login`, or set HF_TOKEN, to a token with write access ({TOKENS_PAGE})"


class HubError(RuntimeError):
    """The Hub did not do what it was asked for. Command lines end with exit code 1."""


def require_token() -> str:
    """The token of whoever is logged in; raises `InputError` where nobody is."""
    token = huggingface_hub.get_token()
    if token is None:
        raise InputError(f"token: none found; {_LOG_IN}")
    return token


def run_hub_command(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None
) -> int:
    """As `run_command`; 1 where the Hub did not do what it was asked for, 130 where the command was interrupted."""
    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    try:
        return run_command(parser, work, argv)
    except HubError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


@contextmanager
def naming_hub_faults(repo_id: str, state: str) -> Iterator[None]:
    """Turn every failure of a request within into a `HubError` of one line.

    Args:
        state: what is there now, such as "nothing was published".
    """
    try:
        yield
    except InputError:
        raise
    # ValueError: an answer that is no JSON, as gateways give, or a card that the Hub refuses; RuntimeError: the
    # client's own way of sending large files.
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise HubError(f"{_reason(error, repo_id)} ({state})") from error


def _reason(error: BaseException, repo_id: str) -> str:
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the client says only which file it was
        return _reason(error.__cause__, repo_id)
    if isinstance(error, LocalTokenNotFoundError):
        return f"token: none found; {_LOG_IN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "network: HF_HUB_OFFLINE=1 is set, so the Hub is not asked; unset it"
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, repo_id)
    if isinstance(error, HTTPError | ConnectionError):
        endpoint = huggingface_hub.constants.ENDPOINT
        return f"network: no answer from {endpoint} ({_short(str(error) or type(error).__name__)}); {_AGAIN}"
    return f"{repo_id}: {_short(str(error) or type(error).__name__)}"


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    """One line for an answer that is an error."""
    status, said = error.response.status_code, _short(error.server_message or "")
    told = f"{status}: {said}" if said else str(status)
    owner = repo_id.split("/")[0]
    lines = {
        400: f"{repo_id}: the Hub refuses what it was sent ({told})",
        401: f"token: the Hub does not take it ({told}); {_LOG_IN}",
        403: f"{repo_id}: the token may not write there ({told}); take one of {owner} with write access "
        f"({TOKENS_PAGE}), or a repository of your own",
        404: f"{repo_id}: not there, or not visible to this token ({told}); check the name and the token's owner",
        409: f"{repo_id}: the name is taken ({told}); choose another",
        412: f"{repo_id}: somebody else changed it meanwhile ({told}); {_AGAIN}",
        429: f"{repo_id}: the Hub's rate limit is reached ({told}); {_AGAIN}{_when(error)}",
    }
    if status >= 500:
        return f"{repo_id}: the Hub itself failed ({told}); {_AGAIN}, in a while"
    return lines.get(status, f"{repo_id}: the Hub answered {told}")


def _when(error: HfHubHTTPError) -> str:
    seconds = error.response.headers.get("Retry-After", "")
    return f" in {seconds} seconds" if seconds.isdecimal() else " in a few minutes"
