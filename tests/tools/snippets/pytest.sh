sockleak run -- python3 -m pytest
