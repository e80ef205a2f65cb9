import pytest

from tests.object_stores import serve


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request, tmp_path_factory):
    with serve(request.param, tmp_path_factory.mktemp(request.param)) as store:
        yield store


@pytest.fixture(scope="module")
def environment(store, tmp_path_factory) -> dict[str, str]:
    """What every command finds: the store, a cache of its own, one device."""
    return store.address(store.port) | {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
