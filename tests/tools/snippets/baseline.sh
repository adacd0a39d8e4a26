sockleak run --format=json:known.json -- make test || true # once, and keep known.json
sockleak run --baseline=known.json -- make test            # from now on, only new leaks fail
