# Sourced by the other scripts (POSIX sh): brings .venv up to date with requirements.lock and setup.cfg.
# It sets $root (the clone) and $venv (its virtual environment), and prints to stderr only.

root=$(dirname "$(dirname "$(readlink -f "$0")")")
venv=$root/.venv
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV

setup_say() { echo "set-up: $*" >&2; }

# Prints what .venv depends on: the clone's path, Python's version, and a checksum of the lock and the metadata.
setup_stamp() {
    echo "$root"
    "$1" -I -S -c 'import sys; print(sys.version_info[:3])' 2>/dev/null
    cat "$root/requirements.lock" "$root/setup.cfg" "$root/pyproject.toml" | cksum
}

setup_is_current() {
    [ -f "$venv/stamp" ] && [ -x "$venv/bin/python" ] && [ "$(setup_stamp "$venv/bin/python")" = "$(cat "$venv/stamp")" ]
}

# Whether every package of the lock has a wheel for this Python, so that no compiler is needed.
setup_fits() {
    case $1 in
        3.11 | 3.12 | 3.13 | 3.14) ;;
        *) return 1 ;;
    esac
}

setup_version() {
    "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2] + " (free-threaded)" * ("t" in sys.abiflags))' \
        2>/dev/null
}

# Prints the path of the first Python that fits and can create a virtual environment.
setup_find_python() {
    old= bare=
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        version=$(setup_version "$candidate") || continue
        if ! setup_fits "$version"; then
            old="$old $candidate is $version;"
            continue
        fi
        if "$candidate" -I -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
        bare=${bare:-$version}
    done
    if [ -n "$bare" ]; then
        setup_say "Python $bare is here without its venv module; on Debian or Ubuntu: apt-get install python3-venv"
    else
        setup_say "Python 3.11 to 3.14 is needed and none is on the PATH.${old:+ (Found:${old%;}.)}"
        setup_say "Install one, for example: apt-get install python3 python3-venv"
    fi
    return 1
}

# Whether .venv can be updated in place: its Python fits and has pip, and the clone has not been moved.
setup_is_usable() {
    "$venv/bin/python" -I -c 'import pip' 2>/dev/null && setup_fits "$(setup_version "$venv/bin/python")" &&
        [ "$(cat "$venv/made-in" 2>/dev/null || echo "$root")" = "$root" ]
}

setup_install() {
    if ! setup_is_usable; then
        python=$(setup_find_python) || return 1
        if [ -L "$venv" ]; then
            setup_say ".venv was a link to $(readlink "$venv"), which stays as it is"
            rm "$venv"
        fi
        setup_say "making .venv with $python"
        "$python" -m venv --clear "$venv" >&2 || return 1
        echo "$root" >"$venv/made-in"
    fi
    rm -f "$venv/stamp"
    setup_say "installing what requirements.lock says"
    set -- "$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-input
    "$@" --require-hashes -r "$root/requirements.lock" >&2 || return 1
    # setuptools comes from the lock, so nothing is fetched without a hash.
    "$@" --no-deps --no-build-isolation -e "$root" >&2 || return 1
    stamp=$(setup_stamp "$venv/bin/python")
    echo "$stamp" >"$venv/stamp"
}

if ! setup_is_current; then
    (
        if ! [ -w "$root" ]; then
            setup_say "$root is not $(id -un)'s to write in: run this once as its owner, or clone it anew"
            exit 1
        fi
        # One set-up at a time: the second one waits, and finds the work done.
        if command -v flock >/dev/null 2>&1; then
            exec 9>"$root/.venv.lock"
            flock -n 9 || setup_say "waiting for another set-up of this clone"
            flock 9
        fi
        setup_is_current || setup_install
    ) || {
        setup_say "failed; what stands above says why. The next run tries again."
        exit 1
    }
fi
