"""Runs of one thread, each in a process of its own, which leave a file each."""

import concurrent.futures
import json
import os
import subprocess
import sys

import tqdm

SINGLE_THREADED = {
    **dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS',
                     'TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS', 'NPROC'), '1'),
    'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false', 'CUDA_VISIBLE_DEVICES': '',
    'JAX_PLATFORMS': 'cpu'}


def store(file, result):
    """Replaces the file at once, so that a kill leaves none by halves."""
    part = file.with_suffix('.part')
    part.write_text(json.dumps(result, indent=1), encoding='utf-8')
    part.replace(file)


def run(arguments):
    """Runs Python with these arguments; returns why it failed, or `None`."""
    process = subprocess.run(
        [sys.executable, *map(str, arguments)], env={**os.environ, **SINGLE_THREADED},
        capture_output=True, text=True, check=False)
    return process.stderr.strip().splitlines()[-1] if process.returncode else None


def run_all(commands, workers):
    """Runs so many at once.

    Args:
      commands: pairs of what a run is of, and the arguments of Python.
      workers: `int`.

    Returns:
      `dict` of what failed -> why the first of its runs did.
    """
    failed = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool, tqdm.tqdm(
            total=len(commands), desc='runs') as bar:
        futures = {pool.submit(run, arguments): what for what, arguments in commands}
        for future in concurrent.futures.as_completed(futures):
            bar.update()
            if future.result() is not None:
                failed.setdefault(futures[future], future.result())
    return failed
