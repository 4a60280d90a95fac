"""The service in containers: built from a copy of the tracked files, on a real Docker engine."""

from collections.abc import Iterator

import pytest

from tests.compose.project import Stack, compose_command, copy_of_the_project


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service, built and up once; nothing of it is left at the end but the engine's build cache."""
    made = Stack(compose_command(), copy_of_the_project(tmp_path_factory.mktemp("batchwire")))
    try:
        try:
            made.up("--build")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{made.compose('logs', '--tail', '40')}") from error
        yield made
    finally:
        made.down()
