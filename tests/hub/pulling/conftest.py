import huggingface_hub
import pytest
from huggingface_hub import constants

from adapterhub.hub import transport
from tests.hub.pulling.reading_hub import Hub, serving

TOKEN = "hf_never-to-be-seen-anywhere"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hub, which is the endpoint of the client; the token is for it alone."""
    with serving(Hub()) as one:
        for name, value in {
            "ENDPOINT": one.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True,
            "HUGGINGFACE_CO_URL_TEMPLATE": one.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(transport, "WAIT", 0.01)
        huggingface_hub.close_session()
        yield one


@pytest.fixture
def elsewhere():
    """Another origin."""
    with serving(Hub()) as one:
        yield one
