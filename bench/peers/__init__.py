"""Other systems doing the same work, each as a program of its own: `python -m bench.peers.NAME '{"dsn": ...}'`.

They run in an environment of their own (`.venv-bench`), which has none of the project's packages: import nothing of the
project here. `bench.beside` starts them.
"""
