"""How a benchmark is run: its options, and functions of it in processes of their own."""

import argparse
import concurrent.futures
import importlib
import json
import os
import pathlib
import subprocess
import sys

import tqdm

# Of use before TensorFlow and PyTorch are imported, as here by all benchmarks. OpenMP's
# threads would otherwise spin after each call, on the cores on which the next is timed.
os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

OUT = pathlib.Path('results')
SINGLE_THREADED = {
    **dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS',
                     'TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS', 'NPROC'), '1'),
    'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false', 'CUDA_VISIBLE_DEVICES': '',
    'JAX_PLATFORMS': 'cpu'}


def options(doc, **defaults):
    """Parses options of these defaults, whose types they have.

    `False` is a flag, a list takes several values, a `dict` some of its keys and by
    default all. The directory `out` is made.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        if default is False:
            kind = dict(action='store_true')
        elif isinstance(default, dict):
            kind = dict(nargs='+', choices=default, metavar=name[:-1].upper(),
                        help=', '.join(map(repr, default)).replace('%', '%%'))
        elif isinstance(default, list):
            kind = dict(nargs='+', type=type(default[0]))
        else:
            kind = dict(type=type(default))
        parser.add_argument(f'--{name.replace("_", "-")}', **kind, default=(
            list(default) if isinstance(default, dict) else default))
    found = parser.parse_args()
    if hasattr(found, 'out'):
        found.out.mkdir(parents=True, exist_ok=True)
    return found


def load(where):
    """What `'module.name'` names."""
    module, name = where.split('.')
    return getattr(importlib.import_module(module), name)


def call(where, *arguments, **environment):
    """What the function `'module.name'` gives in a new process; all must be JSON."""
    process = subprocess.run(
        [sys.executable, __file__, where, json.dumps(arguments)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError((process.stderr.strip() or f'exit status {process.returncode}'
                            ).splitlines()[-1])
    return json.loads(process.stdout.splitlines()[-1])


def run_all(where, rows, folder, workers):
    """Runs a function of a row in a process of one thread, so many processes at once.

    A result is a `dict`, the row and what the function gives for it, and a file in the
    folder, named by the first three fields. What is there of an equal row is not run.

    Returns:
      The results that there are, and the rows that failed, with `why`.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def run(row):
        file = folder / ('{}, {}, {}.json'.format(*row.values()).replace(' ', '_'))
        if file.exists():
            found = json.loads(file.read_text(encoding='utf-8'))
            if found == {**found, **row}:
                return found
        try:
            result = {**row, **call(where, row, **SINGLE_THREADED)}
        except RuntimeError as error:
            return {**row, 'why': str(error)}
        # At once, so that a kill leaves no file by halves.
        part = file.with_suffix('.part')
        part.write_text(json.dumps(result, indent=1), encoding='utf-8')
        part.replace(file)
        return result

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        found = list(tqdm.tqdm(pool.map(run, json.loads(json.dumps(rows))),
                               total=len(rows), desc='runs'))
    return ([result for result in found if 'why' not in result],
            [result for result in found if 'why' in result])


if __name__ == '__main__':
    found = json.dumps(load(sys.argv[1])(*json.loads(sys.argv[2])), default=float)
    print('\n' + found)     # On a line of its own, whatever packages have printed.
