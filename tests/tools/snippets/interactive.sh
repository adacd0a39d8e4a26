sockleak run -- ./server --port 8080 # until it ends, or ^C: then the report
sockleak dump "$(pidof server)"      # what it holds now; it runs on
sockleak scan --older=1m             # which process of this machine has old CLOSE_WAIT
