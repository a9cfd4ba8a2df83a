"""A storage of Optuna that writes and reads a trial in few round trips.

Optuna's own storage stores each parameter and attribute of a trial in a transaction of its own and
reads the study again for every question: seventeen transactions a trial. Here the writes of an own
running trial wait until they matter: until the study is read, or the trial ends.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Container, Iterator, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine

from search.study.database.trial_rows import (
    PendingWrites,
    create_trial,
    end_trial,
    read_trials,
    store,
)


class StoredStudy:
    """The trials of one study as they were last read, and those of this process."""

    def __init__(self, study: int) -> None:
        self.study = study
        self.trials: dict[int, FrozenTrial] = {}
        """By their identity in the database, in the order of identities and of numbers."""
        self.last = -1
        """Identity of the last trial that was read."""
        self.running: set[int] = set()
        """Identities of the trials of other processes that were running when last read."""
        self.distributions: dict[str, BaseDistribution] = {}
        """The distribution of each parameter: the same in all trials."""
        self.examples: dict[str, int] = {}
        """A stored trial with each parameter."""

    def store(self, connection: Connection, trial_id: int, pending: PendingWrites) -> None:
        """Store what is pending of a trial."""
        store(connection, pending.arguments(trial_id, self.examples))
        for name in pending.parameters:
            self.examples.setdefault(name, trial_id)

    def read(self, connection: Connection, own: Container[int]) -> None:
        """Read new trials, and those of others that were running when they were last read."""
        found = read_trials(connection, self.study, self.last, self.running, self.distributions)
        for trial in found:
            identity = trial._trial_id
            self.last = max(self.last, identity)
            if identity in own:
                self.trials.setdefault(identity, trial)
                continue
            self.trials[identity] = trial
            for name in trial.params:
                self.examples.setdefault(name, identity)
            if trial.state.is_finished():
                self.running.discard(identity)
            else:
                self.running.add(identity)


class BatchedStorage(BaseStorage):
    """Trials in PostgreSQL; everything else is left to Optuna's own storage.

    The parameters of a study must have the same distributions in all trials, as those of this
    project do. One thread at a time may work on trials.
    """

    def __init__(self, tables: RDBStorage) -> None:
        self._rest = get_storage(tables)
        # Each statement is a transaction of its own, which saves two round trips.
        self._engine: Engine = tables.engine
        self._single = tables.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._studies: dict[int, StoredStudy] = {}
        self._own: dict[int, tuple[StoredStudy, PendingWrites]] = {}
        """The running trials of this process."""
        self._from_memory = False

    @contextlib.contextmanager
    def from_memory(self) -> Iterator[None]:
        """Answer from memory in the block, as of the last trial that was created or read."""
        self._from_memory = True
        try:
            yield
        finally:
            self._from_memory = False

    # Trials.

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is not None:
            return self._rest.create_new_trial(study_id, template_trial)
        study = self._studies.setdefault(study_id, StoredStudy(study_id))
        trial_id = create_trial(self._engine, study_id)
        self._own[trial_id] = study, PendingWrites()
        self._read(study)
        return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        if trial_id not in self._own:
            self._rest.set_trial_param(trial_id, param_name, param_value_internal, distribution)
            return
        study, pending = self._own[trial_id]
        trial = study.trials[trial_id]
        known = study.distributions.setdefault(param_name, distribution)
        if known is not distribution:
            check_distribution_compatibility(known, distribution)
        pending.parameters[param_name] = param_value_internal, known
        trial.distributions[param_name] = known
        trial.params[param_name] = known.to_external_repr(param_value_internal)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id not in self._own:
            self._rest.set_trial_user_attr(trial_id, key, value)
            return
        study, pending = self._own[trial_id]
        pending.user_attributes[key] = study.trials[trial_id].user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id not in self._own:
            self._rest.set_trial_system_attr(trial_id, key, value)
            return
        study, pending = self._own[trial_id]
        pending.system_attributes[key] = study.trials[trial_id].system_attrs[key] = value

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if trial_id not in self._own or not state.is_finished():
            return self._rest.set_trial_state_values(trial_id, state, values)
        study, pending = self._own[trial_id]
        arguments = pending.arguments(trial_id, study.examples)
        with self._single.connect() as connection:
            ended = end_trial(connection, arguments, state, values or ())
        del self._own[trial_id]
        if not ended:
            study.running.add(trial_id)  # to be read, as another process has ended it
            self.check_trial_is_updatable(trial_id, TrialState.FAIL)
        trial = _copy(study.trials[trial_id])
        trial.state, trial.values = state, None if values is None else [*values]
        trial.datetime_complete = datetime.now()
        study.trials[trial_id] = trial
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._rest.set_trial_intermediate_value(trial_id, step, intermediate_value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        for study in self._studies.values():
            trial = study.trials.get(trial_id)
            if trial is not None and trial_id not in study.running:
                return _copy(trial)
        return self._rest.get_trial(trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        study = self._studies.setdefault(study_id, StoredStudy(study_id))
        if not self._from_memory:
            self._store_pending()
            self._read(study)
        trials = [*study.trials.values()]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._rest.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def _store_pending(self) -> None:
        """Store what is pending: whoever reads afterwards must be seen by the others."""
        for trial_id, (study, pending) in self._own.items():
            if pending:
                with self._single.connect() as connection:
                    study.store(connection, trial_id, pending)
                self._own[trial_id] = study, PendingWrites()

    def _read(self, study: StoredStudy) -> None:
        with self._single.connect() as connection:
            study.read(connection, self._own)

    # Studies.

    def create_new_study(self, directions: Any, study_name: str | None = None) -> int:
        return self._rest.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._studies.pop(study_id, None)
        self._rest.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._rest.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._rest.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._rest.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._rest.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> Any:
        return self._rest.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._rest.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._rest.get_study_system_attrs(study_id)

    def get_all_studies(self) -> Any:
        return self._rest.get_all_studies()

    def remove_session(self) -> None:
        self._rest.remove_session()


def _copy(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy whose dictionaries are its own."""
    copied = copy.copy(trial)
    copied.params, copied.distributions = dict(trial.params), dict(trial.distributions)
    copied.user_attrs, copied.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
    return copied
