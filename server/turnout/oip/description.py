"""Describes the server and its models, and reports whether they are ready."""

import contextlib
from collections.abc import Callable

from turnout.errors import Draining, VersionOnDemand
from turnout.oip.metadata import model_config, model_metadata
from turnout.serving.data_plane.inference import Router
from turnout.serving.versions.catalog import Catalog
from turnout_proto.oip.inference_pb2 import ModelMetadataResponse
from turnout_proto.oip.model_config_pb2 import ModelConfig

SERVER = "turnout"
"""Name of the server in its metadata."""

_EXTENSIONS = (
    "binary_tensor_data", "classification", "logging", "model_configuration", "model_repository", "parameters",
    "trace",
)  # fmt: skip
"""Supported extensions, by Triton's names. Never add `statistics`, although the server supports it: if perf_analyzer
finds that name, it parses the versions in the statistics as integers, which fails for some, and reads `1.10.0` as 1."""

_SHARED_MEMORY = "system_shared_memory"


class ModelDescription:
    """Answers the questions that clients ask before they send inference requests."""

    def __init__(
        self, router: Router, catalog: Catalog, accepting: Callable[[], bool], *, shared_memory: bool = False
    ) -> None:
        """Initializes the description. `accepting` returns False once the server drains."""
        self.extensions = sorted((*_EXTENSIONS, _SHARED_MEMORY)) if shared_memory else sorted(_EXTENSIONS)
        self._router = router
        self._catalog = catalog
        self._accepting = accepting

    def ready(self) -> bool:
        """Returns whether the server is ready for traffic."""
        return self._catalog.snapshot.complete and self._accepting()

    def check_ready(self, model: str, selector: str) -> None:
        """Checks that a request for a version would be accepted now, possibly after loading the version on demand.

        Raises:
            InvalidSelector: The selector cannot be parsed.
            NotFoundError, NotLoaded, UnavailableError, DigestMismatch: The error that a request would receive.
        """
        with contextlib.suppress(VersionOnDemand):
            self._router.route(model, selector, "", baseline_only=True)  # does not count in the split
        if not self._accepting():
            raise Draining("the server is stopping", retry_after=1.0)

    def metadata(self, model: str, selector: str) -> ModelMetadataResponse:
        """Describes the inputs and outputs of a version. Raises the same errors as `Router.describe`."""
        return model_metadata(self._router.describe(model, selector), self._catalog.snapshot)

    def config(self, model: str, selector: str) -> ModelConfig:
        """Describes a version as a Triton model configuration. Raises the same errors as `Router.describe`."""
        return model_config(self._router.describe(model, selector))
