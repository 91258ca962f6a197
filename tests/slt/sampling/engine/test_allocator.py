"""What a step frees stays at hand."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import pytest

# Each block is larger than any before it, so that glibc by itself takes every one from the system. Forks of one process
# that has torch imported: what either sets is its own.
FAULTS = textwrap.dedent(
    """
    import os
    import resource
    import torch
    from devinterp.slt.sampling.engine.allocator import keep_freed_memory

    def faults(keep):
        reading, writing = os.pipe()
        if os.fork() == 0:
            if keep:
                keep_freed_memory()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for megabytes in range(24, 31):
                torch.ones(megabytes * 2**18)
            os.write(writing, str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before).encode())
            os._exit(0)
        os.wait()
        return int(os.read(reading, 99))

    print(faults(keep=False) - faults(keep=True))
    """
)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives its heap's end back so readily")
def test_freed_memory_is_not_taken_from_the_system_again():
    # dask sets a threshold in the environment of every process that has started a cluster, which then stands.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=kept)
    # Of 189 MB in all, the last 30 need pages; what else the process does, under coverage say, is the same both times.
    assert int(run.stdout) > 20_000
