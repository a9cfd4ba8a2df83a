"""The files of the groups of a fleet.

OUT/groups/NAME/          the last search of the group, as `merge-search run` leaves it
OUT/groups/NAME/watch/    the rounds of the group, and the references of its last search
OUT/groups/NAME/watch/frames/00000012/  the frames of its cameras in its last search
OUT/groups/NAME/service/  the plan in service of all its cameras
OUT/fleet/CAMERA          a link to the bundle in service of the camera's group

The recordings stay with the fleet, in OUT/watch/cameras.
"""

from __future__ import annotations

import os
from pathlib import Path

from search.config.run import RunConfig
from search.deploy.champion import CURRENT, ChampionStore
from search.fleet.placement import PREFIX, Fleet
from search.results.rounds import RoundHistory
from search.utils.files import replace_link
from search.watch.workspace import Workspace

GROUPS_FOLDER, LINKS_FOLDER = "groups", "fleet"
"""Below OUT."""


def group_config(config: RunConfig, group: str) -> RunConfig:
    """Return the config of a group's searches: it has a name and an output folder of its own."""
    out = os.path.relpath(config.out_folder / GROUPS_FOLDER / group, config.base)
    return config.model_copy(update={"name": f"{config.name}-{group}", "out": out})


def group_champions(config: RunConfig, group: str) -> ChampionStore:
    """Return the store of the plan in service of a group."""
    return ChampionStore(Workspace(group_config(config, group).out_folder).service_folder)


def group_history(config: RunConfig, group: str) -> RoundHistory:
    """Return the rounds of a group."""
    return RoundHistory(Workspace(group_config(config, group).out_folder).folder)


def last_founded(config: RunConfig) -> int:
    """Return the number of the last group that has a folder: no other group gets its name."""
    folders = (config.out_folder / GROUPS_FOLDER).glob(f"{PREFIX}*")
    numbers = (path.name.removeprefix(PREFIX) for path in folders)
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def sample_folder(workspace: Workspace, number: int) -> Path:
    """Return the folder with the frames of the cameras in a group's search in that round."""
    return workspace.folder / "frames" / f"{number:08d}"


def camera_link(config: RunConfig, camera: str) -> Path:
    """Return the link to the bundle in service of a camera, which a box loads."""
    return config.out_folder / LINKS_FOLDER / camera


def link_cameras(config: RunConfig, fleet: Fleet) -> None:
    """Point the link of each camera at the plan in service of its group, if there is one.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    for camera, member in fleet.members.items():
        current = group_champions(config, member.group).folder / CURRENT
        if current.is_symlink():
            link = camera_link(config, camera)
            replace_link(link, Path(os.path.relpath(current, link.parent)))
