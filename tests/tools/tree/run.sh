#!/bin/sh
# The tests of the project: 200 clients. 192 are served and close, 3 end on the server that is
# killed, 4 are kept by the daemon, and one leaks itself.
set -e
./server clean &
clean=$!
./server killed &
./server daemon # in the background by itself
for name in clean killed daemon; do
    while ! [ -s $name.port ]; do sleep 0.05; done
done
for i in 1 2 3 4; do ./client daemon keep; done
for i in 1 2 3; do ./client killed keep; done
seq 96 | xargs -P 4 -I {} ./client clean close
seq 96 | xargs -P 4 -I {} ./client daemon close
./client clean leak
sleep 1.2 # what a live process has had in its state for less than a second is no leak yet
kill -TERM $clean
wait
