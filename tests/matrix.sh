#!/usr/bin/env bash
# Runs the fast tests on several versions of Python, TensorFlow, TFP and Keras, each in a
# fresh virtual environment, and prints a table of what came of it:
#
#     tests/matrix.sh                     # all
#     tests/matrix.sh oldest nightly      # some
#
# Interpreters are looked for on the PATH and in ~/.pyenv. OUT (default build/matrix)
# has a log of each. With other tests: PYTEST='-m fast -k spline' tests/matrix.sh
set -uo pipefail
cd "$(dirname "$0")/.."

# Name, Python, and what pip is told beside the package.
MATRIX="
oldest  3.10 tensorflow==2.18.0 tf_keras==2.18.0 keras==3.5.0 tensorflow-probability==0.25.0
python3.11 3.11
python3.12 3.12
newest  3.13
nightly 3.13 tfp-nightly tensorflow tf_keras numpy>=2.4
"

out=$(realpath -m "${OUT:-build/matrix}")
mkdir -p "$out"
rows=() failed=0

interpreter() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        # A shim of pyenv is there for what is not installed, too.
        "$candidate" -c '' 2> /dev/null && echo "$candidate" && return
    done
    return 1
}

# What the extra `test` and those in it name, but for this package itself.
test_requirements() {
    python3 - <<'PYTHON'
import configparser, re
settings = configparser.ConfigParser()
settings.read('setup.cfg')
extras = settings['options.extras_require']
names = ['test', *re.findall(r'tfp_conditional\[(\w+)\]', extras['test'])]
print(*(line for name in names for line in extras[name].split()
        if not line.startswith('tfp_conditional')))
PYTHON
}

install() {
    python=$1
    shift
    if [[ " $* " == *" tfp-nightly "* ]]; then
        # It is no `tensorflow-probability` to pip, which would put that over it.
        "$python" -m pip install --pre --no-deps tfp-nightly &&
            "$python" -m pip install $(printf '%s\n' "$@" | grep -vx tfp-nightly) absl-py cloudpickle decorator \
                dm-tree gast six $(test_requirements) &&
            "$python" -m pip install --no-deps .
    else
        "$python" -m pip install "$@" '.[test]'
    fi
}

try() {
    name=$1 version=$2
    shift 2
    if ! python=$(interpreter "$version"); then
        rows+=("| $name | $version | | | | | | not here: no such interpreter |")
        return
    fi
    echo "+ $name: $python" >&2
    environment=$(mktemp -d) log=$out/$name.log
    "$python" -m venv "$environment"
    if install "$environment/bin/python" "$@" > "$log" 2>&1; then
        "$environment/bin/python" -m pytest -n 2 --dist loadfile ${PYTEST:--m fast} \
            >> "$log" 2>&1 || failed=1
        result=$(grep -E '[0-9]+ (passed|failed|error)' "$log" | tail -n 1 | sed 's/^=* *//; s/ *=*$//')
        versions=$("$environment/bin/python" - 2>> "$log" <<'PYTHON'
import platform, importlib.metadata as metadata
def version(*names):
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
print(platform.python_version(), version('tensorflow'),
      version('tfp-nightly', 'tensorflow-probability'), version('keras'),
      version('tf_keras'), version('numpy'), sep=' | ')
PYTHON
)
    else
        versions="$version | | | | |" result='pip failed' failed=1
    fi
    rows+=("| $name | $versions | $result |")
    rm -rf "$environment"
}

while read -r name version packages; do
    [[ -z $name ]] && continue
    [[ $# -gt 0 && " $* " != *" $name "* ]] && continue
    try "$name" "$version" $packages < /dev/null
done <<< "$MATRIX"

{
    echo '| | Python | TensorFlow | TFP | Keras | tf_keras | NumPy | fast tests |'
    echo '|---|---|---|---|---|---|---|---|'
    printf '%s\n' "${rows[@]}"
} | tee "$out/table.md"
exit $failed
