from __future__ import annotations

import os
from pathlib import Path

import pytest

from devinterp.store import filesystem
from devinterp.store.filesystem import is_network_folder, sync_files

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 22 0:41 / /home/local\\040disk rw - xfs /dev/sdb rw
32 22 0:42 / /bucket rw - fuse.gcsfuse bucket rw
33 22 0:43 / /stick rw - fuseblk /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/tmp/a", False),
        ("/home/me/a.zarr", True),
        ("/home", True),
        ("/homely", False),
        ("/home/local disk/a", False),
        ("/bucket/a", True),
        ("/stick/a", False),
    ],
)
def test_the_mount_that_is_nearest_decides(monkeypatch, folder, expected):
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a: MOUNTS if str(self) == "/proc/self/mountinfo" else real(self, *a)
    )
    assert is_network_folder(Path(folder)) is expected


def test_files_and_their_folders_are_synced_and_what_is_gone_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    synced, real = [], os.fsync
    monkeypatch.setattr(
        filesystem.os, "fsync", lambda d: (synced.append(os.readlink(f"/proc/self/fd/{d}")), real(d))[1]
    )
    sync_files([tmp_path / "a", tmp_path / "gone"])
    assert synced == [str(tmp_path / "a"), str(tmp_path)]


def test_an_error_of_the_disk_is_raised_and_a_file_system_that_cannot_sync_is_not(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")

    def fsync(number):
        def fail(descriptor):
            raise OSError(number, os.strerror(number))

        return fail

    monkeypatch.setattr(filesystem.os, "fsync", fsync(22))
    sync_files([tmp_path / "a"])
    monkeypatch.setattr(filesystem.os, "fsync", fsync(5))
    with pytest.raises(OSError, match="Input/output error"):
        sync_files([tmp_path / "a"])
