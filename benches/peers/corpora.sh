#!/usr/bin/env bash
# Fetches trees with two consecutive releases each, to compare tools on real content.
#
#     BENCH_ROOT=DIR bash corpora.sh [icons|webapp|jdkdoc|linuxdoc|libraries|bins]...
#
# Makes DIR/corpora/NAME/v1 and v2; about 3.3 GB for all. Needs npm, python3 with pip, dpkg-deb and
# the apt-get of Debian 12 after `apt-get update`.
set -euo pipefail
root=${BENCH_ROOT:?set BENCH_ROOT to a directory outside the repository}
downloads=$root/downloads
mkdir -p "$downloads"

# npm NAME VERSION DESTINATION
npm_package() {
    local directory
    directory=$downloads/npm-$(echo "$1-$2" | tr '/@' '__')
    mkdir -p "$directory" "$3"
    [ -n "$(ls "$directory")" ] || (cd "$directory" && npm pack --silent "$1@$2" >&2)
    tar -xzf "$directory"/*.tgz -C "$3" --strip-components=1
}

# wheel NAME VERSION DESTINATION
wheel() {
    local directory=$downloads/wheel-$1-$2
    [ -d "$directory" ] ||
        python3 -m pip download -q --no-deps --only-binary :all: -d "$directory" "$1==$2"
    python3 -m zipfile -e "$directory"/*.whl "$3"
}

# debian CORPUS PACKAGE: its two newest versions
debian() {
    local versions release directory
    mapfile -t versions < <(apt-cache madison "$2" | awk '{ print $3 }' | sort -Vu | tail -n 2)
    [ "${#versions[@]}" -eq 2 ] || { echo "$2 has only one version; left out" >&2; return; }
    for release in 1 2; do
        directory=$downloads/$2-v$release
        mkdir -p "$directory"
        (cd "$directory" && apt-get download -qq "$2=${versions[release - 1]}")
        dpkg-deb -x "$directory"/*.deb "$root/corpora/$1/v$release"
    done
}

# Tens of thousands of tiny files.
icons() {
    npm_package @mui/icons-material 9.4.0 "$1/v1/mui"
    npm_package @mui/icons-material 9.5.0 "$1/v2/mui"
    npm_package @fluentui/svg-icons 1.1.341 "$1/v1/fluent"
    npm_package @fluentui/svg-icons 1.1.343 "$1/v2/fluent"
}

# Built applications, whose assets have a hash in their names.
webapp() {
    wheel jupyterlab 4.6.5 "$1/v1/jupyterlab"
    wheel jupyterlab 4.6.6 "$1/v2/jupyterlab"
    wheel streamlit 1.66.1 "$1/v1/streamlit"
    wheel streamlit 1.67.0 "$1/v2/streamlit"
    wheel mlflow 3.17.1 "$1/v1/mlflow"
    wheel mlflow 3.17.2 "$1/v2/mlflow"
    npm_package monaco-editor 0.56.0 "$1/v1/monaco"
    npm_package monaco-editor 0.57.0 "$1/v2/monaco"
}

# Ten thousand pages; almost every page changed in one line.
jdkdoc() { debian jdkdoc openjdk-17-doc; }

# Fifteen thousand files, pages and their sources.
linuxdoc() { debian linuxdoc linux-doc-6.1; }

# Libraries that were built again after a security fix.
libraries() {
    local package
    for package in libnode108 libperl5.36 libpython3.11 libpython3.11-stdlib libpoppler126 \
        libgs10 libwebkit2gtk-4.0-37 libjavascriptcoregtk-4.0-18; do
        debian libraries "$package"
    done
}

# A few large libraries.
bins() {
    wheel polars-runtime-32 1.44.1 "$1/v1/polars"
    wheel polars-runtime-32 1.44.2 "$1/v2/polars"
    wheel pyarrow 26.0.0 "$1/v1/pyarrow"
    wheel pyarrow 26.0.1 "$1/v2/pyarrow"
    wheel duckdb 1.5.5 "$1/v1/duckdb"
    wheel duckdb 1.5.6 "$1/v2/duckdb"
}

[ $# -gt 0 ] || set -- icons webapp jdkdoc linuxdoc libraries bins
for name in "$@"; do
    corpus=$root/corpora/$name
    rm -rf "$corpus"
    mkdir -p "$corpus/v1" "$corpus/v2"
    "$name" "$corpus"
    # Only plain files: links and modes have tests of their own.
    find "$corpus" -type l -delete
    chmod -R u+rwX "$corpus"
    find "$corpus" -depth -type d -empty -delete
done
