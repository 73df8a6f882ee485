"""A Hugging Face Hub on 127.0.0.1, for tests: the real client, the real `hf` and real diffusers talk to it.

    from tests.hub.loopback import Fault, LoopbackHub, REGULAR, hub       # `hub` is the fixture: import it into a conftest

    def test_something(hub):
        hub.add("alice/fox", {"a.safetensors": b"..."}, private=False, gated=False)   # owner alice; a commit on main
        hub.endpoint, hub.token                     # "http://127.0.0.1:PORT"; the token of alice, hub.tokens has bob's
        hub.environment                             # a whole environment for a subprocess: HF_HOME, HF_ENDPOINT, HF_TOKEN …
        hub.run("-m", "adapterhub", "push", …)      # python with that environment in the root of the project
        hub.api(), hub.api(None)                    # the real HfApi as alice, as nobody; in this process nothing is cached
        hub.files("alice/fox", "main")              # {name: bytes} at a revision; hub.head(…) its commit, hub.repo(…) all of it
        hub.requests                                # every request that came: method, path, range, authorization, status
        hub.fail(Fault(status=503, method="POST", path="/commit/", nth=1, times=2))   # see faults.py: stalls, cuts …
        hub.rename("alice/fox", "alice/vixen")      # the old name is answered with a redirect, as the Hub does
        hub.cas, hub.xet                            # Xet: "local:///folder", which hf_xet itself plays, {sha256: hash there}
        hub.part_size, hub.page_size, hub.elsewhere # LFS parts, rows of a page, whether LFS files come from another origin

The fixture gives each test a server of its own, an HF_HOME of its own, and sets huggingface_hub's constants in this process
to them, because that reads the environment once, when it is imported. Retries do not wait.

Written from the requests that huggingface_hub 2.4.0 makes (`hf_api.py`, `_commit_api.py`, `lfs.py`, `file_download.py`).
"""

from tests.hub.loopback.faults import Fault
from tests.hub.loopback.server import LoopbackHub, hub
from tests.hub.loopback.store import LFS, REGULAR

__all__ = ["LFS", "REGULAR", "Fault", "LoopbackHub", "hub"]
