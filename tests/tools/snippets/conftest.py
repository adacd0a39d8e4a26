import os, sys

status = None

def pytest_sessionfinish(exitstatus):
    global status
    status = int(exitstatus)

def pytest_unconfigure():
    # When Python ends, it closes all sockets itself. Under sockleak, end before that.
    if status is not None and "libsockleak" in os.environ.get("LD_PRELOAD", ""):
        sys.stdout.flush()
        os._exit(status)
