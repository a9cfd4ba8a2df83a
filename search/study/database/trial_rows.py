"""The statements that read and write the trials of a study in PostgreSQL.

The tables are those of Optuna's `RDBStorage`, which creates them and checks their version when it
opens the database; it reads what is written here, and the reverse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Row, text

KNOWN_TABLES = "v3.2.0.a"
"""Optuna's version of the tables that these statements are written for."""
NOW = "timezone('utc', clock_timestamp())"
LOCK_STUDY = text("SELECT study_id FROM studies WHERE study_id = :study FOR UPDATE")
"""Lets one process at a time number a trial, as Optuna does."""
CREATE_TRIAL = text(f"""
    INSERT INTO trials (number, study_id, state, datetime_start)
    SELECT count(*), :study, 'RUNNING', {NOW} FROM trials WHERE study_id = :study
    RETURNING trial_id
""")
READ_TRIALS = text("""
    SELECT trial_id, number, state::text, datetime_start, datetime_complete,
        (SELECT json_agg(json_build_array(param_name, param_value) ORDER BY param_id)
            FROM trial_params p WHERE p.trial_id = t.trial_id) AS parameters,
        (SELECT json_agg(json_build_array(value, value_type::text) ORDER BY objective)
            FROM trial_values v WHERE v.trial_id = t.trial_id) AS objectives,
        (SELECT json_object_agg(key, value_json)
            FROM trial_user_attributes u WHERE u.trial_id = t.trial_id) AS user_attributes,
        (SELECT json_object_agg(key, value_json)
            FROM trial_system_attributes s WHERE s.trial_id = t.trial_id) AS system_attributes
    FROM trials t
    WHERE study_id = :study AND (trial_id > :last OR trial_id = ANY(CAST(:open AS integer[])))
    ORDER BY trial_id
""")
READ_DISTRIBUTIONS = text("""
    SELECT DISTINCT ON (param_name) param_name, distribution_json
    FROM trial_params p JOIN trials t ON t.trial_id = p.trial_id WHERE study_id = :study
    ORDER BY param_name
""")
ATTRIBUTES = """
    INSERT INTO {table} (trial_id, key, value_json)
    SELECT {trial}, key, value
    FROM unnest(
        CAST(:{name}_keys AS text[]), CAST(:{name}_values AS text[])
    ) AS a (key, value) {where}
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
"""
PARAMETERS = """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT {trial}, name, value, coalesce(distribution, (
        SELECT distribution_json FROM trial_params e
        WHERE e.trial_id = example AND e.param_name = name
    ))
    FROM unnest(
        CAST(:names AS text[]), CAST(:numbers AS float8[]), CAST(:distributions AS text[]),
        CAST(:examples AS integer[])
    ) AS p (name, value, distribution, example) {where}
    ON CONFLICT (trial_id, param_name) DO NOTHING
"""
"""The database copies a distribution from a trial that has it: with hundreds of choices it takes
kilobytes. A process that is stopped as it stores them stores them again when it ends its trial."""


def _write(trial: str, where: str) -> str:
    """Return the parts of a statement that write parameters and attributes of a trial."""
    user = ATTRIBUTES.format(table="trial_user_attributes", name="user", trial=trial, where=where)
    system = ATTRIBUTES.format(
        table="trial_system_attributes", name="system", trial=trial, where=where
    )
    parameters = PARAMETERS.format(trial=trial, where=where)
    return f"p AS ({parameters}), u AS ({user}), s AS ({system})"


STORE_PENDING = text(f"WITH {_write('CAST(:trial AS integer)', '')} SELECT 1")
END_TRIAL = text(f"""
    WITH t AS (
        UPDATE trials SET state = CAST(:state AS trialstate), datetime_complete = {NOW}
        WHERE trial_id = :trial AND state = 'RUNNING' RETURNING trial_id
    ), v AS (
        INSERT INTO trial_values (trial_id, objective, value, value_type)
        SELECT t.trial_id, place - 1, value, CAST(type AS trialvaluetype)
        FROM t, unnest(CAST(:objectives AS float8[]), CAST(:types AS text[]))
            WITH ORDINALITY AS o (value, type, place)
    ), {_write("t.trial_id", ", t")}
    SELECT count(*) FROM t
""")
"""Ends a trial with all that is not stored yet, or does nothing if it is not running."""


class PendingWrites:
    """What of a running trial is not stored yet."""

    def __init__(self) -> None:
        self.parameters: dict[str, tuple[float, BaseDistribution]] = {}
        """The number of each parameter's value, and its distribution."""
        self.user_attributes: dict[str, Any] = {}
        self.system_attributes: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return bool(self.parameters or self.user_attributes or self.system_attributes)

    def arguments(self, trial: int, examples: Mapping[str, int]) -> dict[str, Any]:
        """Return the arguments of STORE_PENDING and END_TRIAL.

        `examples` are stored trials with the same distributions, by the parameter's name.
        """
        return {
            "trial": trial,
            "names": [*self.parameters],
            "numbers": [float(number) for number, _ in self.parameters.values()],
            "distributions": [
                None if name in examples else distribution_to_json(distribution)
                for name, (_, distribution) in self.parameters.items()
            ],
            "examples": [examples.get(name) for name in self.parameters],
            "user_keys": [*self.user_attributes],
            "user_values": [*map(json.dumps, self.user_attributes.values())],
            "system_keys": [*self.system_attributes],
            "system_values": [*map(json.dumps, self.system_attributes.values())],
        }


def create_trial(engine: Engine, study: int) -> int:
    """Add a running trial, and return its identity: larger than those of all trials before."""
    with engine.begin() as connection:
        connection.execute(LOCK_STUDY, {"study": study})
        identity: int = connection.execute(CREATE_TRIAL, {"study": study}).scalar_one()
    return identity


def store(connection: Connection, arguments: Mapping[str, Any]) -> None:
    """Store what is pending of a trial, in one statement."""
    connection.execute(STORE_PENDING, arguments)


def end_trial(
    connection: Connection,
    arguments: Mapping[str, Any],
    state: TrialState,
    values: Sequence[float],
) -> bool:
    """End a trial in one statement; return False if another process has ended it."""
    ending = {
        "state": state.name,
        "objectives": [None if math.isinf(value) else value for value in values],
        "types": [_value_type(value) for value in values],
    }
    return bool(connection.execute(END_TRIAL, {**arguments, **ending}).scalar_one())


def read_trials(
    connection: Connection,
    study: int,
    last: int,
    running: Collection[int],
    distributions: dict[str, BaseDistribution],
) -> Iterator[FrozenTrial]:
    """Yield the trials that were added after the trial `last`, and those of `running`.

    `distributions` are those of the study's parameters; missing ones are read and added.
    """
    rows = connection.execute(
        READ_TRIALS, {"study": study, "last": last, "open": [*running]}
    ).all()
    names = {name for row in rows for name, _ in row.parameters or ()}
    if not names <= distributions.keys():
        found = connection.execute(READ_DISTRIBUTIONS, {"study": study})
        distributions |= {name: json_to_distribution(text) for name, text in found}
    return (_trial_of(row, distributions) for row in rows)


def _trial_of(row: Row[Any], distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    trial = _without_parameters(row)
    if row.datetime_complete is not None:
        trial.datetime_complete = _local(row.datetime_complete)
    for name, number in row.parameters or ():
        trial.distributions[name] = distributions[name]
        trial.params[name] = distributions[name].to_external_repr(number)
    trial.user_attrs = _attributes(row.user_attributes)
    trial.system_attrs = _attributes(row.system_attributes)
    if row.objectives:
        trial.values = [_value(*stored) for stored in row.objectives]
    return trial


def _without_parameters(row: Row[Any]) -> FrozenTrial:
    return FrozenTrial(
        number=row.number,
        state=TrialState[row.state],
        value=None,
        values=None,
        datetime_start=_local(row.datetime_start),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=row.trial_id,
    )


def _attributes(stored: Mapping[str, str] | None) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in (stored or {}).items()}


def _value_type(value: float) -> str:
    return "FINITE" if not math.isinf(value) else "INF_POS" if value > 0 else "INF_NEG"


def _value(stored: float | None, kind: str) -> float:
    return float(stored) if stored is not None else math.inf if kind == "INF_POS" else -math.inf


def _local(utc: datetime) -> datetime:
    """Return a time in UTC as Optuna gives it: local, without a zone."""
    return utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
