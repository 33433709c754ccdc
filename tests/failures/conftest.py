"""A process that has imported everything, whose children are killed, stopped and refused disk space."""

from collections.abc import Iterator

import faults
import pytest
from fork_server import ForkServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    library = faults.compiled(tmp_path_factory.mktemp("library"))
    server = ForkServer({"LD_PRELOAD": str(library)} if library else {})
    server.has_faults = library is not None
    yield server
    server.close()
