"""A study of choices: combinations that are looked up by the trials of Optuna, each once.

The trials are stored, and the same call continues the study. What a combination is worth is looked
up again when a study is continued: times that were measured anew may differ a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.study.lookup.choices import Choices, Combination, LookedUp, Lookup
from search.study.lookup.sampler import ChoiceSampler, RandomChoiceSampler, choice_distributions
from search.study.pareto import nondominated_indices
from search.study.storage import open_store, translated_errors
from search.utils.progress import Progress, silent

_SAMPLERS = {"predicted": ChoiceSampler, "random": RandomChoiceSampler}


@dataclass(frozen=True)
class LookupSettings:
    """How the space is explored, and where the trials are stored."""

    name: str
    """Of the study in its store; another one for another problem."""
    store: str
    """A file's path, or a postgresql:// URL."""
    trials: int
    """Combinations to look up, those of an interrupted call included."""
    seed: int
    sampler: Literal["predicted", "random"] = "predicted"


@dataclass(frozen=True)
class LookupResult:
    """The combinations that a study has looked up."""

    evaluated: tuple[LookedUp, ...]
    """One for each trial, in their order."""
    exhausted: bool
    """Whether they are all combinations of the space."""

    @property
    def feasible(self) -> list[LookedUp]:
        """Those within all limits."""
        return [point for point in self.evaluated if point.outcome.feasible]

    @property
    def front(self) -> list[LookedUp]:
        """The feasible ones that no other feasible one dominates, in the order of their values."""
        points = self.feasible
        return [points[i] for i in nondominated_indices([p.outcome.values for p in points])]


def run_lookup_study(
    choices: Choices,
    lookup: Lookup,
    settings: LookupSettings,
    starts: Sequence[Combination] = (),
    progress: Progress = silent,
) -> LookupResult:
    """Look up combinations until the study has its trials, or none is left.

    `starts` come first, in their order. An interrupted study is continued.

    Raises:
        StoreFailed: the store cannot be reached, or takes no more trials; its trials are kept.
        DamagedStudy: the file is no journal of trials.
    """
    with translated_errors(settings.store):
        objectives = len(lookup(next(choices.all())).values)
        study = optuna.create_study(
            study_name=settings.name,
            storage=open_store(settings.store),
            directions=[StudyDirection.MINIMIZE] * objectives,
            load_if_exists=True,
        )
        evaluated = _finished(study, choices, lookup)
        progress(len(evaluated))
        sampler = _SAMPLERS[settings.sampler](choices, evaluated, starts, settings.seed)
        study.sampler = sampler
        while len(evaluated) < min(settings.trials, choices.size):
            trial = study.ask(choice_distributions(choices))
            outcome = lookup(trial.params)
            for name, violation in outcome.violations.items():
                trial.set_constraint(name, violation)
            study.tell(trial, outcome.values)
            evaluated[choices.key(trial.params)] = LookedUp(dict(trial.params), outcome)
            progress(1)
    return LookupResult((*evaluated.values(),), len(evaluated) == choices.size)


def _finished(study: optuna.Study, choices: Choices, lookup: Lookup) -> dict[str, LookedUp]:
    """Return the combinations of the trials that have finished, by their keys."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found = (dict(trial.params) for trial in trials)
    return {choices.key(one): LookedUp(one, lookup(one)) for one in found}
