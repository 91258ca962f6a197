"""What a step frees stays at hand."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import pytest

# Each block is larger than any before it, so that glibc by itself takes every one from the system.
FAULTS = textwrap.dedent(
    """
    import resource
    import sys
    import torch
    from devinterp.slt.sampling.engine.allocator import keep_freed_memory

    if sys.argv[1] == "keep":
        keep_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in range(24, 31):
        torch.ones(megabytes * 2**18)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives its heap's end back so readily")
def test_freed_memory_is_not_taken_from_the_system_again():
    def faults(how):
        command = [sys.executable, "-c", FAULTS, how]
        # dask sets a threshold in the environment of every process that has started a cluster, which then stands.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=kept).stdout)

    # Of 189 MB in all, the last 30 need pages; what else the process does, under coverage say, is the same both times.
    assert faults("leave") - faults("keep") > 20_000
