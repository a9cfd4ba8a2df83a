"""Fetch pretrained weights from a model hub.

This is the only module that imports huggingface_hub.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import huggingface_hub

from spaces.errors import HubUnreachable
from spaces.model_spec import ModelSpec

HUB_TIMEOUT = 5.0
"""Seconds in which the model hub must begin to answer one of two requests."""


@contextlib.contextmanager
def hub_errors(spec: ModelSpec) -> Iterator[None]:
    """Turn any error of a library about an unreachable hub into one clear message."""
    if spec.weights != "hub":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        return
    logging.disable(logging.CRITICAL)  # the hub client logs every retry; one message is enough
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            _without_hopeless_retries(),
        ):
            yield
    except Exception as error:
        # Each library and transport raises its own exception when the network is missing.
        raise HubUnreachable(
            f"{spec.name}: the pretrained weights of {spec.arch} could not be fetched from the "
            f"model hub ({type(error).__name__}). Either give this machine network access, or set "
            "`weights:` to a local .safetensors or .pth file, or to `none` for random weights."
        ) from error
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _without_hopeless_retries() -> Iterator[None]:
    """Let the hub client read its cache only, if the hub does not answer at all.

    Otherwise the client tries every file again and again, for half a minute.
    """
    constants = huggingface_hub.constants
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not (_hub_answers() or _hub_answers())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _hub_answers() -> bool:
    """Return whether the model hub answers, whatever it says."""
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception:
        # each version of the client raises the exceptions of another transport
        return False
    return True
