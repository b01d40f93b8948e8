#!/bin/bash
# Checks the files of a cluster offline: cluster/validate.sh FOLDER..., or without a folder what the committed profiles give.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$HERE${PYTHONPATH:+:$PYTHONPATH}"
exec python -m cluster.validate ${1:+--folders "$@"}
