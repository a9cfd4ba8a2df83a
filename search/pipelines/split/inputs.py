"""The first step of a split: the models, the frames, and the plans whose splits are explored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from search.config.budget import parse_budget
from search.config.run import RunConfig
from search.config.split import SplitConfig, count_macs
from search.data.frames import FrameSet, Sampling, Subset, split_frames
from search.data.ground_truth import Truth
from search.deploy.run_folder import DOCUMENT
from search.evaluation.evaluate import UNMERGED_PLAN
from search.pipelines.deployment.load import load_models, survey_without_shares
from search.pipelines.finished_run import LoadedRun
from search.pipelines.open_data import check_frame_supply
from search.pipelines.prepare import observe, open_frames, open_truth
from search.refinement.refined_maps import maps_of, refinement_steps
from search.report.console_tables import print_stages
from search.results.search_result import Result
from search.results.split_result import SplitConditions
from search.split.setup import SplitSetup
from search.statistics.observed import Observed
from search.utils.reporter import Reporter
from spaces.cost import CostModel
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError
from spaces.liveness import canonical
from spaces.merged import LinearMaps
from spaces.model_facts import layouts_by_model
from spaces.plan import Precision, SharePlan


class NoSplitSection(MergeSearchError):
    """The config does not describe a link, a device and a server."""


@dataclass(frozen=True)
class SplitInputs:
    """Everything that splits are explored and measured with."""

    config: RunConfig
    settings: SplitConfig
    deployment: Deployment
    frames: FrameSet
    """All unlabelled frames."""
    fitted_on: FrameSet
    """Those that codecs are fitted on."""
    held_out: FrameSet
    """Those that no codec is fitted on."""
    truth: Mapping[str, Truth]
    """By model; models without labels are missing."""
    plans: tuple[SharePlan, ...]
    """In canonical form, the unmerged plan first."""
    maps: LinearMaps

    @cached_property
    def costs(self) -> CostModel:
        return CostModel(self.deployment.facts)

    @cached_property
    def setup(self) -> SplitSetup:
        """The networks as they are loaded, with their BatchNorms, as a bundle has them."""
        deployment = self.deployment
        return SplitSetup(deployment.models, deployment.facts, self.maps, deployment.dtype)

    @cached_property
    def conditions(self) -> SplitConditions:
        """The link, the device and the server of the config, with limits in bytes and MACs.

        The unmerged models have the bytes and MACs that percentages are shares of.
        """
        settings, costs = self.settings, self.costs
        memory, macs = settings.device.memory, settings.device.macs
        return SplitConditions(
            mbit=settings.link.mbit,
            rtt_ms=settings.link.rtt_ms,
            loss=settings.link.loss,
            device_speed=settings.device.speed,
            server_speed=settings.server.speed,
            deadline_ms=settings.deadline_ms,
            memory=None if memory is None else parse_budget(memory, costs.unmerged_bytes),
            macs=None if macs is None else count_macs(macs, costs.unmerged_macs),
        )


def load_split_inputs(config: RunConfig, reporter: Reporter) -> SplitInputs:
    """Load the models, the frames, the labels, and the plans of a finished run in OUT.

    Raises:
        NoSplitSection: the config has no section `split`.
        MergeSearchError: anything else that the user can correct.
    """
    settings = config.split
    if settings is None:
        raise NoSplitSection(
            "the config has no section `split`, which describes the link, the device and the "
            "server; `split: {}` takes the defaults"
        )
    check_frame_supply(config)
    models = load_models(config, reporter)
    precisions: dict[Precision, None] = dict.fromkeys(
        [*config.search.precision, *settings.device.precision]
    )
    with reporter.working("stages"):
        deployment = survey_without_shares(config, models, [*precisions])
    print_stages(deployment.facts, reporter)
    frames = open_frames(config, reporter)
    truth = open_truth(config, deployment, frames, reporter)
    statistics_frames, held_out = split_frames(frames, config.verify.fidelity_frames)
    plans, maps = _plans_of_run(config, settings, deployment, frames, reporter)
    return SplitInputs(
        config=config,
        settings=settings,
        deployment=deployment,
        frames=frames,
        fitted_on=_thinned(statistics_frames, settings.frames),
        held_out=held_out,
        truth=truth,
        plans=(UNMERGED_PLAN, *plans),
        maps=maps,
    )


def _thinned(frames: FrameSet, most: int | None) -> FrameSet:
    if most is None or most >= len(frames):
        return frames
    return Subset(frames, tuple(Sampling(most).indices(len(frames))))


def _plans_of_run(
    config: RunConfig,
    settings: SplitConfig,
    deployment: Deployment,
    frames: FrameSet,
    reporter: Reporter,
) -> tuple[list[SharePlan], LinearMaps]:
    """Return the plans of a finished run with their maps; without a run, print that."""
    if len(deployment.models) < 2:
        return [], {}
    out = config.out_folder
    if not (out / DOCUMENT).is_file():
        reporter.say(
            f"  {out.name} holds no finished run, whose plans would be split, too: only the "
            "unmerged models are split"
        )
        return [], {}
    result = LoadedRun.from_folder(out).result
    if problem := _why_foreign(result, config, frames):
        reporter.warn(f"Only the unmerged models are split: {problem}")
        return [], {}
    layouts = layouts_by_model(deployment.facts)
    records = chosen_plans(result, settings.plans)
    plans = [canonical(SharePlan.from_dict(record), layouts) for record in records]
    reporter.say(f"  {len(plans)} verified plans of the run in {out.name} are split, too")
    if not any(plan.mapped_shares for plan in plans):
        return plans, {}
    observed = observe(config, deployment, frames, reporter)
    return plans, _maps(observed, plans, reporter)


def _maps(observed: Observed, plans: Sequence[SharePlan], reporter: Reporter) -> LinearMaps:
    with reporter.progress("linear maps", refinement_steps(observed, plans)) as progress:
        return maps_of(observed, plans, progress)


def _why_foreign(result: Result, config: RunConfig, frames: FrameSet) -> str:
    """Say why the plans of a run do not fit the config; empty if they do."""
    if set(result.models) != set(config.models):
        return f"the finished run in {config.out_folder.name} is one of other models"
    if result.frames["hash"] != frames.hash:
        return "the frames have changed since the run in " + config.out_folder.name
    return ""


def chosen_plans(result: Result, most: int) -> list[dict[str, object]]:
    """Return the plans of the verified front that share something; the chosen one first."""
    hashes = dict.fromkeys([*filter(None, [result.chosen]), *result.verified_front])
    records = {record.hash: record.plan for record in result.candidates}
    plans = [records[found] for found in hashes if found in records]
    return [plan for plan in plans if plan["shares"]][:most]
