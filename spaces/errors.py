"""The one family of errors that reaches a user: what, where, and what would be right."""


class MergeSearchError(Exception):
    """Something the user can put right; its text is shown as it is, without a traceback."""

    exit_code = 1


class UncuttableModel(MergeSearchError):
    """The network cannot be cut into a chain of stages."""


class BadWeights(MergeSearchError):
    """A weights file is missing, does not fit the network, or holds NaN or infinite values."""


class HubUnreachable(MergeSearchError):
    """Pretrained weights were asked from the model hub and it did not answer."""


class BadPlan(MergeSearchError):
    """A plan that no merged model can be built from."""


class BadInput(MergeSearchError):
    """An input setting or a camera frame that no network can be fed with."""
