#!/bin/sh
# For a double click on macOS: what webui.sh does.
exec /bin/sh "$(dirname "$0")/webui.sh" "$@"
