"""Where the reference data of the project lies, apart from the repository."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("ADAPTERHUB_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of module lists that were enumerated independently of this code."""
    folder = SHARED / "formats" / "data"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}: set ADAPTERHUB_SHARED")
    return folder
