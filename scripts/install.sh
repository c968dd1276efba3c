#!/usr/bin/env bash
# Installs what the project needs and does nothing when it is there: `install.sh tools` the bioinformatics tools
# (Debian packages), `install.sh python` and `install.sh python --dev` the Python packages of Pipfile.lock into .venv,
# `install.sh browser` Chromium for the tests of pages, `install.sh containers` podman and an image registry for the tests
# of real containers, and strace for that of what reaches the disk, `install.sh databases` servers that speak DynamoDB's
# and CouchDB's API, for the tests of pools, `install.sh crates` the validator of RO-Crates, `install.sh pipenv` what
# writes Pipfile.lock. Each says in one sentence what it cannot do. Without root it names what is missing as Debian and
# conda call it, and takes what is on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }

# Whether Debian packages can be installed here.
can_install() {
  command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }
}

# How bioconda or conda-forge calls a Debian package; nothing: they do not have it.
conda_name() {
  case "$1" in
    bcftools | bwa | kallisto | nodejs | pizzly | podman | samtools) echo "$1" ;;
    picard-tools) echo picard ;;
    npm) echo nodejs ;;
    python3-venv) echo python ;;
  esac
}

# Says how to get Debian packages where they cannot be installed from here.
name_missing() {
  local what=$1 package name conda=() neither=()
  shift
  for package in "$@"; do
    name=$(conda_name "$package")
    if [ -z "$name" ]; then neither+=("$package"); else conda+=("$name"); fi
  done
  say "Missing: $what. As root on Debian: apt-get install --no-install-recommends $*"
  [ ${#conda[@]} -eq 0 ] ||
    say "Without root: conda install -c conda-forge -c bioconda ${conda[*]}; what is on the PATH is used."
  [ ${#neither[@]} -eq 0 ] || say "Known to Debian alone: ${neither[*]}."
}

# apt_packages WHAT PACKAGE...: installs Debian packages, as root or through sudo.
apt_packages() {
  local what=$1
  shift
  if ! can_install; then
    name_missing "$what" "$@"
    exit 1
  fi
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  say "Installing $what: $*"
  local log
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@"; } \
    >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "apt-get could not install $*; its last lines are above."
    exit 1
  fi
  rm -f "$log"
}

tools() {
  local missing=()
  # bioconda's command is `picard`.
  command -v PicardCommandLine >/dev/null || command -v picard >/dev/null || [ -n "${PICARD_JAR:-}" ] ||
    missing+=(picard-tools)
  command -v kallisto >/dev/null || missing+=(kallisto)
  # Data of two tests, which Debian alone has.
  [ -d /usr/share/doc/kallisto/test ] || ! can_install || missing+=(kallisto-examples)
  command -v pizzly >/dev/null || missing+=(pizzly)
  command -v samtools >/dev/null || missing+=(samtools)
  command -v bwa >/dev/null || missing+=(bwa)
  command -v bcftools >/dev/null || missing+=(bcftools)
  [ ${#missing[@]} -eq 0 ] || apt_packages "the tools of the pipelines" "${missing[@]}"
}

browser() {
  command -v chromium >/dev/null && command -v chromedriver >/dev/null && return
  apt_packages "a browser for the tests" chromium chromium-driver
}

containers() {
  local missing=()
  command -v podman >/dev/null || missing+=(podman)
  command -v crun >/dev/null || missing+=(crun)
  command -v catatonit >/dev/null || missing+=(catatonit)
  command -v debootstrap >/dev/null || missing+=(debootstrap)
  command -v docker-registry >/dev/null || missing+=(docker-registry)
  command -v strace >/dev/null || missing+=(strace)
  [ ${#missing[@]} -eq 0 ] || apt_packages "podman, an image registry and strace" "${missing[@]}"
}

databases() {
  local folder=tests/servers missing=() stamp
  # What is installed belongs to these versions and to this node: there is a compiled module among it.
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  [ ${#missing[@]} -eq 0 ] || apt_packages "what runs the databases of the tests" "${missing[@]}"
  stamp=$folder/node_modules/.installed-$(cat "$folder/package.json" <(node --version) | sha256sum | cut -c1-16)
  [ ! -e "$stamp" ] || return 0
  say "Installing the databases of $folder/package.json"
  local log
  log=$(mktemp)
  # No package runs a script of its own, and there is no lock file: it would name a registry's host.
  if ! (cd "$folder" && npm install --no-package-lock --ignore-scripts --omit=optional --no-audit --no-fund) \
    >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "npm could not install the databases; its last lines are above."
    exit 1
  fi
  rm -f "$log"
  touch "$stamp"
}

# The newest Python on the PATH that the packages of Pipfile.lock are tested with.
interpreter() {
  local version candidate
  for version in 3.13 3.12 3.11; do
    for candidate in "python$version" python3; do
      # A shim of pyenv may be there and not start.
      if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
        command -v "$candidate"
        return
      fi
    done
  done
  say "Python 3.11, 3.12 or 3.13 is needed and none is on the PATH. On Debian: apt-get install python3 python3-venv;" \
    "without root: conda install -c conda-forge python=3.13, or pyenv install 3.13 && pyenv global 3.13"
  exit 1
}

python_packages() {
  local stamp python
  stamp=.venv/.synced-$(cat Pipfile.lock <(printf '%s' "$*") | sha256sum | cut -c1-16)
  # What was synced with --dev serves without it too.
  if [ -e "$stamp" ] || { [ $# -eq 0 ] && [ -e ".venv/.synced-$(cat Pipfile.lock <(printf -- '--dev') | sha256sum | cut -c1-16)" ]; }; then
    return
  fi
  python=$(interpreter)
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then apt_packages "Python's venv" python3-venv; fi
  say "Installing the Python packages of Pipfile.lock into .venv"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # Processes of this machine run the gathers of the fusion pipeline too.
  local categories=(default cohort multiqc)
  [ "$*" != --dev ] || categories+=(develop)
  .venv/bin/python -m scripts.requirements "${categories[@]}" >.venv/requirements.txt
  # Not compiled: Python compiles what it imports, and most of plotly and numpy never is.
  local options=(-q --disable-pip-version-check --no-compile --no-deps)
  if ! { .venv/bin/pip install "${options[@]}" --require-hashes -r .venv/requirements.txt &&
    .venv/bin/pip install "${options[@]}" -e .; } >.venv/sync.log 2>&1; then
    tail -n 20 .venv/sync.log >&2
    say "pip could not install the packages; its last lines are above, all of them in .venv/sync.log."
    exit 1
  fi
  touch "$stamp"
}

# What chooses the packages of Pipfile.lock.
pipenv() {
  [ ! -x .venv/tools/bin/pipenv ] || return 0
  say "Installing pipenv into .venv/tools"
  "$(interpreter)" -m venv .venv/tools
  .venv/tools/bin/pip install -q --no-compile "pipenv==2026.10.3"
}

# The validator needs other versions of packages than ours, so it has an environment of its own. It would fetch RO-Crate's
# JSON-LD context from the network; an npm package has it, and it goes into the validator's cache.
crates() {
  local folder=.venv/crates stamp python log
  stamp=$folder/.installed-$(cat scripts/warm_contexts.py <(declare -f crates) | sha256sum | cut -c1-16)
  [ ! -e "$stamp" ] || return 0
  command -v npm >/dev/null || apt_packages "npm, for RO-Crate's context" nodejs npm
  python=$(interpreter)
  say "Installing the validator of RO-Crates into $folder"
  log=$(mktemp)
  if ! { mkdir -p .venv && "$python" -m venv "$folder" &&
    "$folder/bin/pip" install -q "roc-validator==0.13.0" &&
    npm install --prefix "$folder/node" --no-package-lock --ignore-scripts --no-audit --no-fund "ro-crate@3.5.1" &&
    node -e "process.stdout.write(JSON.stringify(require('./$folder/node/node_modules/ro-crate/lib/defaults.js').standardContexts))" \
      >"$folder/contexts.json" &&
    "$folder/bin/python" scripts/warm_contexts.py "$folder/contexts.json" "$folder/contexts"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "The validator of RO-Crates could not be installed; its last lines are above."
    exit 1
  fi
  rm -f "$log"
  touch "$stamp"
}

what=${1:-}
shift || true
case "$what" in
  tools) tools ;;
  browser) browser ;;
  containers) containers ;;
  databases) databases ;;
  crates) crates ;;
  pipenv) pipenv ;;
  python) python_packages "$@" ;;
  *)
    say "Usage: scripts/install.sh tools | browser | containers | databases | crates | pipenv | python [--dev]"
    exit 2
    ;;
esac
