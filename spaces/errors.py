"""The errors that reach a user. Each says what is wrong, where, and what would be right."""


class MergeSearchError(Exception):
    """An error that the user can fix; commands print its message without a traceback.

    Examples:
        >>> from search import load_config
        >>> try:
        ...     load_config("config.yaml", ["budget=65 parrots"])
        ... except MergeSearchError as error:
        ...     print(error)
        config config.yaml: budget: write it as 65%, 24 MB, 23 MiB or a whole ... parrots')
    """

    exit_code = 1


class UncuttableModel(MergeSearchError):
    """The network cannot be cut into a chain of stages."""


class BadWeights(MergeSearchError):
    """A weights file is missing, does not fit the network, or holds NaN or infinite values."""


class HubUnreachable(MergeSearchError):
    """The model hub, which holds the pretrained weights, does not answer."""


class BadPlan(MergeSearchError):
    """A plan from which no merged model can be built."""


class BadInput(MergeSearchError):
    """An input setting or a camera frame that no network accepts."""
