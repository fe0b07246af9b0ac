"""Names of repositories and tags on the Hub, checked before anything is sent."""

import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from training.common.errors import InputError

_SHOWN = 300


_TAG = re.compile(r"\w[\w.+-]*", re.ASCII)


def checked_repo_id(repo_id: str, argument: str) -> str:
    """`repo_id` if it is OWNER/NAME in letters that the Hub takes; raises `InputError` naming `argument`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{argument}: {repo_id!r} is no id of a repository ({_short(str(error))})") from None
    if repo_id.count("/") != 1:
        raise InputError(f"{argument}: {repo_id!r} names no owner; use OWNER/NAME, such as me/{repo_id}")
    return repo_id


def checked_tag(tag: str) -> str:
    """`tag` if git and an address can hold it; raises `InputError`."""
    if not _TAG.fullmatch(tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise InputError(f"tag: {tag!r} is no name of a tag; use letters, digits, '-', '_', '.' and '+', such as v1.0")
    return tag


def _short(text: str) -> str:
    """On one line, and no page."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
