"""The client of this process, made to take a test Hub for the Hub."""

import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.utils import _http

from tests.hub.server import HubServer


def use_hub(hub: HubServer, patch: pytest.MonkeyPatch, cache: Path, token: str = "hf_write") -> None:
    """Point the client at `hub`, as `HubServer.environment` does for a new process.

    It reads its environment when it is imported, so its constants are changed here. Between two tries it waits for
    nothing.
    """
    constants = huggingface_hub.constants
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    patch.setenv("HF_TOKEN", token)
