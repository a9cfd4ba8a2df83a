"""The error of a message that no encoder has sent."""

from spaces.errors import MergeSearchError


class DamagedMessage(MergeSearchError):
    """A message is not as an encoder has written it."""
