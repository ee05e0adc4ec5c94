"""New manifests that say the same as old ones, with some bytes in other places.

After a re-packing, a repair, a rebuilt HEAD: names, contents, sizes and digests stay; only `place` changes, and with
it the packs that the manifest names. `Session.rewrite` swaps such manifests in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from formats.manifest import Manifest, PackRef, StateFile, SubtaskState, files_of, packs_of


def replace_places(manifest: Manifest, change: Callable[[StateFile], StateFile], packs: Mapping[str, int]) -> Manifest:
    """The manifest with every state file changed; its `packs` are those that are used now.

    `packs`: sizes of packs that the old manifest does not name.
    """

    def changed(files: tuple[StateFile, ...]) -> tuple[StateFile, ...]:
        return tuple(change(file) for file in files)

    def subtask(state: SubtaskState) -> SubtaskState:
        return msgspec.structs.replace(state, files=changed(state.files))

    operators = tuple(
        msgspec.structs.replace(
            operator,
            coordinator=changed(operator.coordinator),
            subtasks=tuple(subtask(state) for state in operator.subtasks),
        )
        for operator in manifest.operators
    )
    moved = msgspec.structs.replace(manifest, operators=operators)
    sizes = {pack.key: pack.bytes for pack in manifest.packs} | dict(packs)
    used = {pack for _, _, file in files_of(moved) for pack in packs_of(file)}
    return msgspec.structs.replace(moved, packs=tuple(PackRef(pack, sizes[pack]) for pack in sorted(used)))
