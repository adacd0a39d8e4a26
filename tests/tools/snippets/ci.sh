sockleak run --format=junit:leaks.xml --format=json:leaks.json -- make test
