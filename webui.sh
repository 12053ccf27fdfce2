#!/bin/sh
# Starts the web page; the first time it makes an environment, .venv-web, in the folder that this file is in.
cd "$(dirname "$0")" || exit 1
ENVIRONMENT=.venv-web found=

stop() {
    echo "$1" >&2
    if [ -t 0 ]; then
        printf 'Press Enter to close. ' >&2
        read -r _
    fi
    exit 1
}

if [ ! -f "$ENVIRONMENT/ready" ]; then
    for python in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11 python3.10; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && found=$python && break
    done
    [ -n "$found" ] || stop "Python 3.10 or newer is needed, and was not found. Get it from https://www.python.org/downloads/, then start this again."
    "$found" -c 'import venv, ensurepip' 2>/dev/null ||
        stop "Python's module venv is missing. On Debian and Ubuntu: sudo apt install python3-venv"
    echo "The first start makes an environment in $ENVIRONMENT. This takes some minutes and about 6 GB ..."
    "$found" -m venv "$ENVIRONMENT" || stop "The environment could not be made in $ENVIRONMENT."
    "$ENVIRONMENT/bin/python" -m pip install --quiet --editable '.[web]' ||
        stop "The packages could not be installed. The first start needs the internet, and room on the disk."
    touch "$ENVIRONMENT/ready"
fi
exec "$ENVIRONMENT/bin/python" scripts/webui.py "$@"
