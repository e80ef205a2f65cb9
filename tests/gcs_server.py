"""gcp_storage_emulator with what TensorStore needs of Google's server: generations of what is read, and conditions.

python tests/gcs_server.py start --port=PORT --in-memory --default-bucket=NAME
"""

import contextlib
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

emulated_insert, emulated_download = objects.insert, objects.download


def generation(storage, bucket: str, name: str) -> str:
    """Of an object as it is now; "0" if there is none."""
    with contextlib.suppress(NotFound):
        return storage.get_file_obj(bucket, name)["generation"]
    return "0"


def insert(request, response, storage, *args, **kwargs):
    name, wanted = request.query.get("name"), request.query.get("ifGenerationMatch")
    if name and wanted and generation(storage, request.params["bucket_name"], name[0]) != wanted[0]:
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    emulated_insert(request, response, storage, *args, **kwargs)


def download(request, response, storage, *args, **kwargs):
    response["x-goog-generation"] = generation(storage, request.params["bucket_name"], request.params["object_id"])
    emulated_download(request, response, storage, *args, **kwargs)


objects.insert, objects.download = insert, download

if __name__ == "__main__":
    from gcp_storage_emulator.__main__ import main  # takes the handlers as it finds them

    main()
