"""Build networks with functions of the user's own: `python:package.module:function`.

The function runs because a config names it, and only then. It takes no argument, or `num_classes`
if the config gives it, and returns a module that takes a (frames, channels, height, width) input
and returns the answer of its task; `spaces.sources.own_answers` says in which form. The module may
say its `input_size`, (height, width), and its `task`; the config may say both, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from spaces.errors import BadInput, BadWeights
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.own_answers import role_of_own
from spaces.sources.source import (
    BuiltNetwork,
    build_traced,
    imagenet_input,
    load_for_inference,
)
from spaces.tasks.task import ClassNames, TaskName


class PythonSource:
    """Networks that functions of installed packages build, by `package.module:function`."""

    def build(self, spec: ModelSpec, name: str) -> BuiltNetwork:
        if spec.weights == "hub":
            raise BadWeights(
                f"{spec.name}: {spec.arch} has no weights in a hub; set `weights:` to a local "
                "file, or to `none` for those that the function leaves in the network"
            )
        net = _call(_function(spec, name), spec)
        task: TaskName = spec.task or getattr(net, "task", None) or "classification"
        input_spec = _input(net, spec, task)
        note = load_for_inference(net, spec)
        return build_traced(net, spec, role_of_own(net, spec, input_spec, task), note)

    def weights_licence(self, spec: ModelSpec, name: str) -> str:
        return ""

    def class_names(self, spec: ModelSpec, name: str) -> ClassNames:
        return ()


def _function(spec: ModelSpec, name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    try:
        function: object = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{spec.name}: {spec.arch}: there is no module {error.name!r}; install its package, "
            "or name its folder in the environment variable PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise BadInput(f"{spec.name}: {spec.arch}: {error}") from error
    except Exception as error:
        # the user's own code may raise anything when it is imported
        raise BadInput(
            f"{spec.name}: {spec.arch} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise BadInput(f"{spec.name}: {spec.arch} is no function")
    return function


def _call(function: Callable[..., Any], spec: ModelSpec) -> nn.Module:
    options = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    try:
        net = function(**options)
    except Exception as error:
        # the user's own code may raise anything
        raise BadInput(
            f"{spec.name}: {spec.arch} fails when called with {options or 'no argument'}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(net, nn.Module):
        raise BadInput(
            f"{spec.name}: {spec.arch} returns a {type(net).__name__}, not a torch.nn.Module"
        )
    return net


def _input(net: nn.Module, spec: ModelSpec, task: TaskName) -> InputSpec:
    size = spec.size or getattr(net, "input_size", None)
    if size is None:
        raise BadInput(
            f"{spec.name}: {spec.arch} does not say its input size: set `size:`, or give the "
            "module an attribute `input_size`, (height, width)"
        )
    return imagenet_input(spec, (int(size[0]), int(size[1])), task)
