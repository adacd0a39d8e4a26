#!/bin/sh
# The main job on a real leaking program: examples/leaky_http under the library, curl for its
# clients, and the report that the library prints when the server ends.
set -eu
build=${BUILD:-build}
requests=8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkfifo "$dir/out"
LD_PRELOAD=$PWD/$build/libsockleak.so "$build/examples/leaky_http" $requests >"$dir/out" &
server=$!
exec 3<"$dir/out"
read -r _ port <&3
echo "leaky_http serves $requests requests on 127.0.0.1:$port; curl asks:"
for i in $(seq $requests); do
    case $((i % 3)) in 2) path=/missing ;; *) path=/ ;; esac
    curl -s -o /dev/null -w "  GET $path  %{http_code}\n" "http://127.0.0.1:$port$path"
done
echo
wait $server
