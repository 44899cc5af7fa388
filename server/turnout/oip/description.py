"""Describes the server and its models, and tells whether they are ready."""

import contextlib
from collections.abc import Callable

from turnout.errors import Draining, VersionOnDemand
from turnout.oip.metadata import model_config, model_metadata
from turnout.serving.data_plane.inference import Router
from turnout.serving.versions.catalog import Catalog
from turnout_proto.oip.inference_pb2 import ModelMetadataResponse
from turnout_proto.oip.model_config_pb2 import ModelConfig

SERVER = "turnout"
"""The server's name in its metadata."""

_EXTENSIONS = (
    "binary_tensor_data", "classification", "logging", "model_configuration", "model_repository", "parameters",
    "trace",
)  # fmt: skip
"""By Triton's names. Never add `statistics`, although the server has them: if perf_analyzer finds the name, it
reads the versions in statistics as integers, fails on some and takes `1.10.0` for 1."""

_SHARED_MEMORY = "system_shared_memory"


class ModelDescription:
    """Answers what clients ask before they send requests.

    Attributes:
        extensions: Of the protocol, that the server speaks.
    """

    def __init__(
        self, router: Router, catalog: Catalog, accepting: Callable[[], bool], *, shared_memory: bool = False
    ) -> None:
        """Prepares.

        Args:
            router: Tells which version a selector names.
            catalog: Tells what is served.
            accepting: Tells whether the server takes new requests; False while it drains.
            shared_memory: Whether tensors may lie in system shared memory.
        """
        self.extensions = sorted((*_EXTENSIONS, _SHARED_MEMORY)) if shared_memory else sorted(_EXTENSIONS)
        self._router = router
        self._catalog = catalog
        self._accepting = accepting

    def ready(self) -> bool:
        """Tells whether the server is ready for traffic."""
        return self._catalog.snapshot.complete and self._accepting()

    def check_ready(self, model: str, selector: str) -> None:
        """Checks that a request for this version would be accepted now, if need be after loading the version for it.

        Raises:
            InvalidSelector: The selector does not parse.
            NotFoundError, NotLoaded, UnavailableError, DigestMismatch: As a request would be refused.
        """
        with contextlib.suppress(VersionOnDemand):
            self._router.route(model, selector, "", baseline_only=True)  # counted in no split
        if not self._accepting():
            raise Draining("the server is stopping", retry_after=1.0)

    def metadata(self, model: str, selector: str) -> ModelMetadataResponse:
        """Describes the inputs and outputs of a version. Raises as `Router.describe`."""
        return model_metadata(self._router.describe(model, selector), self._catalog.snapshot)

    def config(self, model: str, selector: str) -> ModelConfig:
        """Describes a version in the form of Triton's model configuration. Raises as `Router.describe`."""
        return model_config(self._router.describe(model, selector))
